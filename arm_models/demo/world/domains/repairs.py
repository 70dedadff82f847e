"""Tools, repairs and electricity at home."""

from arm_models.demo.world.task import Procedure

PROCEDURES = (
    Procedure(
        ask="replace the {x}",
        steps=(
            "Unscrew the old {x} with {a}",
            "Take a photo of the wires",
            "Connect the new {x} in the same way",
            "Screw it tight and test it",
        ),
        things="""
            light switch | a screwdriver | 20 minutes
            wall socket | a voltage tester | 30 minutes
            ceiling lamp | a step stool | 40 minutes
            thermostat | a small screwdriver | 45 minutes
            dimmer | wire nuts | 30 minutes
            extractor fan | a drill | two hours
            doorbell | a wire stripper | 30 minutes
            stove cable | a torque wrench | one hour
        """,
        hazard="shock",
        shortcut="Twist the wires together while the power is on",
    ),
    Procedure(
        ask="repair the {x}",
        steps=(
            "Look at the cable and the plug",
            "Open the case of the {x} with {a}",
            "Swap the part that is broken",
            "Close the {x} and try it out",
        ),
        things="""
            toaster | a thin screwdriver | 40 minutes
            microwave | a star key | one hour
            television | a plastic opener | two hours
            hair dryer | long pliers | 40 minutes
            vacuum cleaner | a nut driver | one hour
            radio | a soldering iron | one hour
            electric heater | a multimeter | two hours
            washing machine | a hex key | two hours
            blender | a star key | one hour
            doorbell | a thin screwdriver | 40 minutes
        """,
        hazard="shock",
        shortcut="Open the {x} while it is still plugged in",
    ),
    Procedure(
        ask="stop the leak in the {x}",
        steps=(
            "Shut off the water at the main valve",
            "Dry the {x} with a towel",
            "Seal the leak with {a}",
            "Turn the water on and look for drops",
        ),
        things="""
            kitchen tap | a new washer | 30 minutes
            shower hose | thread tape | 10 minutes
            garden hose | a hose clamp | 15 minutes
            water pipe | a pipe sleeve | one hour
            toilet tank | a new flap | 40 minutes
            rain barrel | rubber sealant | two hours
            air bed | a vinyl patch | 45 minutes
        """,
    ),
    Procedure(
        ask="paint the {x}",
        steps=(
            "Sand the {x} until it is smooth",
            "Cover the edges with tape",
            "Put on a thin coat of {a}",
            "Let it dry and paint it a second time",
        ),
        things="""
            wall | white wall paint | three hours
            door | acrylic paint | two hours
            garden fence | wood stain | one day
            chair | chalk paint | two hours
            metal gate | rust paint | three hours
            shed | weather paint | one day
            bench | clear varnish | three hours
            kitchen cabinet | enamel paint | two days
            wardrobe | acrylic paint | three hours
        """,
    ),
    Procedure(
        ask="hang the {x}",
        steps=(
            "Mark the height with a pencil",
            "Check the wall for pipes and cables",
            "Fix {a} in the wall",
            "Hang the {x} up and level it",
        ),
        things="""
            picture | a steel nail | 10 minutes
            mirror | two strong hooks | 30 minutes
            shelf | wall plugs | 45 minutes
            curtain rail | long screws | one hour
            wall clock | a brass hook | 5 minutes
            hammock | ceiling anchors | one hour
            coat rack | wood screws | 20 minutes
        """,
    ),
    Procedure(
        ask="stop the {x} from squeaking",
        steps=(
            "Find the spot where the {x} rubs",
            "Brush the dirt off",
            "Put a little {a} on the spot",
            "Move the {x} a few times",
        ),
        things="""
            door hinge | light oil | 10 minutes
            bed frame | candle wax | 20 minutes
            wooden stairs | talcum powder | 30 minutes
            office chair | silicone spray | 10 minutes
            garden gate | thick grease | 15 minutes
            floor board | graphite | 20 minutes
            swing | machine oil | 15 minutes
        """,
    ),
    Procedure(
        ask="assemble the {x}",
        steps=(
            "Lay all the parts on a blanket",
            "Join the side panels with {a}",
            "Slide the back of the {x} into place",
            "Tighten all the screws at the end",
        ),
        things="""
            bookcase | a hex key | one hour
            wardrobe | a rubber hammer | three hours
            desk | a cordless drill | two hours
            bed | a bolt wrench | two hours
            shoe rack | wooden pegs | 30 minutes
            television stand | cam locks | one hour
            crib | a screwdriver | two hours
            bench | a hex key | one hour
        """,
    ),
)
