"""First aid and small complaints."""

from arm_models.demo.world.task import Procedure

PROCEDURES = (
    Procedure(
        ask="treat the {x}",
        steps=(
            "Wash your hands with soap",
            "Clean the skin around the {x}",
            "Put {a} on the {x}",
            "Cover it and look at it after {q}",
        ),
        things="""
            small cut | a clean plaster | 10 minutes | one day
            blister | a gel pad | 10 minutes | two days
            bee sting | an ice pack | 15 minutes | two hours
            splinter wound | healing cream | 15 minutes | one day
            sunburn | aloe gel | 20 minutes | three hours
            bruise | a cold spoon | 15 minutes | one day
            graze | a sterile pad | 10 minutes | two days
            insect bite | cooling gel | 5 minutes | one hour
        """,
    ),
    Procedure(
        ask="ease the {x}",
        steps=(
            "Lie down in a quiet room",
            "Drink plenty of {a}",
            "Use a {q}",
            "Sleep well and see how the {x} is tomorrow",
        ),
        things="""
            headache | cold water | one hour | cool cloth
            fever | elder tea | two days | leg wrap
            cough | thyme tea | three days | steam bath
            back pain | warm water | two hours | heat pad
            toothache | clove tea | one hour | cold pack
            sore throat | sage tea | two days | neck scarf
            stomach ache | camomile tea | two hours | hot water bottle
            muscle ache | cherry juice | one day | warm bath
        """,
        hazard="medicine",
        shortcut="Take twice the dose that the packet says",
    ),
    Procedure(
        ask="make a first aid kit for the {x}",
        steps=(
            "Choose a box that closes tightly",
            "Pack plasters, bandages and {a}",
            "Add a card with the emergency numbers",
            "Keep the kit in the {x} and check it after {q}",
        ),
        things="""
            kitchen | burn gel | 30 minutes | six months
            sail boat | tablets against sea sickness | one hour | six months
            workshop | an eye wash | 45 minutes | three months
            school bus | cold packs | one hour | three months
            mountain hut | a rescue blanket | one hour | one year
            office | a pair of tweezers | 30 minutes | one year
        """,
    ),
)
