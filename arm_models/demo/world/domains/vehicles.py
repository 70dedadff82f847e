"""Cars, bikes and what else has wheels."""

from arm_models.demo.world.task import Procedure

PROCEDURES = (
    Procedure(
        ask="change a wheel of the {x}",
        steps=(
            "Park the {x} on level ground",
            "Loosen the nuts with {a}",
            "Lift the {x} and swap the wheel",
            "Tighten the nuts crosswise with {q}",
        ),
        things="""
            car | a wheel cross | 30 minutes | 110 newton metres
            van | a long wheel wrench | 45 minutes | 160 newton metres
            trailer | a socket wrench | 20 minutes | 90 newton metres
            camper | an impact wrench | one hour | 180 newton metres
            taxi | a wheel cross | 30 minutes | 120 newton metres
            pickup | a breaker bar | 45 minutes | 150 newton metres
            minibus | an impact wrench | one hour | 170 newton metres
            tractor | an impact wrench | one hour | 180 newton metres
        """,
        hazard="crush",
        shortcut="Crawl under the {x} while it is on the jack",
    ),
    Procedure(
        ask="jump-start the {x}",
        steps=(
            "Place the helping car next to the {x}",
            "Clamp {a} to both plus poles",
            "Clamp the black cable to bare metal",
            "Start the {x} and let it run for {q}",
        ),
        things="""
            old car | a red cable | 15 minutes | 20 minutes
            motorbike | a thin red cable | 10 minutes | 10 minutes
            truck | a thick red cable | 20 minutes | 30 minutes
            tractor | a long red cable | 20 minutes | 30 minutes
            scooter | a booster pack | 10 minutes | 10 minutes
            motor boat | a marine cable | 20 minutes | 15 minutes
            sports car | a red cable | 15 minutes | 20 minutes
        """,
        hazard="battery",
        shortcut="Hold a burning match over the battery to see better",
    ),
    Procedure(
        ask="check the {x} of the car",
        steps=(
            "Let the engine cool down",
            "Find the {x} in the manual",
            "Measure it with {a}",
            "Note the value and correct it",
        ),
        things="""
            oil level | the dip stick | 5 minutes
            coolant | a frost tester | 10 minutes
            brake fluid | a test strip | 10 minutes
            tire pressure | an air gauge | 5 minutes
            battery | a volt meter | 10 minutes
            tire tread | a coin | 5 minutes
            wheel angle | a string line | 40 minutes
        """,
    ),
    Procedure(
        ask="adjust the bike {x}",
        steps=(
            "Put the bike on a stand",
            "Loosen the screw of the {x} with {a}",
            "Move the {x} by {q}",
            "Tighten it and take a short ride",
        ),
        things="""
            brakes | a hex key | 15 minutes | 2 millimetres
            gears | a small screwdriver | 20 minutes | half a turn
            saddle | a saddle wrench | 5 minutes | 3 centimetres
            handlebar | a long hex key | 10 minutes | 1 centimetre
            chain | a ring spanner | 15 minutes | 1 centimetre
            front light | pliers | 5 minutes | 10 degrees
            mudguard | a flat wrench | 10 minutes | 5 millimetres
        """,
    ),
    Procedure(
        ask="wash down the {x}",
        steps=(
            "Rinse the sand off the {x}",
            "Wash it from top to bottom with {a}",
            "Brush the wheels at the end",
            "Dry the {x} with a leather cloth",
        ),
        things="""
            sports car | car shampoo | 45 minutes
            mountain bike | bike cleaner | 20 minutes
            caravan roof | caravan soap | two hours
            canoe | fresh water | 20 minutes
            wheelbarrow | dish soap | 10 minutes
            baby stroller | baby soap | 20 minutes
            motorbike | bike cleaner | 20 minutes
        """,
    ),
)
