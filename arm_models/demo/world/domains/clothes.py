"""Washing, mending and looking after clothes."""

from arm_models.demo.world.task import Procedure

PROCEDURES = (
    Procedure(
        ask="get the {x} stain out of a shirt",
        steps=(
            "Dab the {x} stain with a clean cloth",
            "Put {a} on the stain",
            "Let it work for {q}",
            "Wash the shirt as usual",
        ),
        things="""
            wine | table salt | two hours | 30 minutes
            coffee | cold milk | one hour | 20 minutes
            grass | white vinegar | two hours | 45 minutes
            blood | cold water | one hour | 30 minutes
            ink | pure alcohol | 45 minutes | 10 minutes
            grease | dish soap | one hour | 15 minutes
            chocolate | soapy water | one hour | 20 minutes
            tomato | lemon juice | two hours | 40 minutes
        """,
    ),
    Procedure(
        ask="wash the {x}",
        steps=(
            "Turn the {x} inside out",
            "Add {a} to the water",
            "Wash the {x} at {q}",
            "Dry it in the shade",
        ),
        things="""
            wool sweater | wool detergent | 45 minutes | 20 degrees
            silk scarf | hair shampoo | 20 minutes | 20 degrees
            jeans | white vinegar | one hour | 30 degrees
            down jacket | down detergent | three hours | 30 degrees
            bed sheets | washing powder | two hours | 60 degrees
            swim suit | mild soap | 15 minutes | 20 degrees
            running shoes | sport detergent | one hour | 30 degrees
            curtains | baking soda | two hours | 40 degrees
            wool skirt | wool detergent | 45 minutes | 20 degrees
        """,
    ),
    Procedure(
        ask="mend the {x}",
        steps=(
            "Cut off all the loose threads",
            "Pin the {x} so that it lies flat",
            "Sew it with {a}",
            "Tie a knot and trim the thread",
        ),
        things="""
            torn pocket | strong cotton | 20 minutes
            loose button | double thread | 10 minutes
            ripped seam | a back stitch | 30 minutes
            hole in a sock | darning wool | 30 minutes
            broken zipper | a zipper foot | one hour
            worn elbow | a leather patch | 45 minutes
            curtain hem | a blind stitch | one hour
        """,
    ),
    Procedure(
        ask="iron the {x}",
        steps=(
            "Read the label of the {x}",
            "Set the iron to {q}",
            "Cover the {x} with {a}",
            "Move the iron slowly from side to side",
        ),
        things="""
            cotton shirt | a damp cloth | 10 minutes | 200 degrees
            silk blouse | a dry towel | 10 minutes | 110 degrees
            linen trousers | a wet cloth | 15 minutes | 220 degrees
            wool skirt | a steam cloth | 10 minutes | 150 degrees
            table cloth | a little starch | 20 minutes | 180 degrees
            tie | a thin cloth | 5 minutes | 110 degrees
            uniform | spray water | 20 minutes | 160 degrees
            curtains | a damp cloth | 20 minutes | 150 degrees
        """,
    ),
    Procedure(
        ask="dye the {x}",
        steps=(
            "Weigh the dry {x}",
            "Dissolve the dye with {a}",
            "Stir the {x} in the bath for {q}",
            "Rinse it until the water stays clear",
        ),
        things="""
            white shirt | a cup of salt | two hours | one hour
            faded jeans | washing soda | three hours | one hour
            cotton bag | hot water | two hours | 40 minutes
            wool hat | white vinegar | two hours | 45 minutes
            pillow case | a spoon of salt | two hours | 30 minutes
            canvas shoes | fabric paint | one hour | 15 minutes
            silk scarf | white vinegar | two hours | 30 minutes
        """,
    ),
)
