"""Cooking, storing food and looking after kitchen equipment."""

from arm_models.demo.world.task import Procedure

PROCEDURES = (
    Procedure(
        ask="descale the {x}",
        steps=(
            "Fill the {x} with water and {a}",
            "Heat it up and let it stand for a while",
            "Pour the water out and rinse the {x}",
            "Run it once more with clean water",
        ),
        things="""
            kettle | white vinegar | 30 minutes
            coffee machine | citric acid | 20 minutes
            steam iron | distilled water | 15 minutes
            egg cooker | lemon juice | 10 minutes
            rice cooker | baking soda | 20 minutes
            dishwasher | descaling powder | one hour
            steam cleaner | citric acid | 30 minutes
            humidifier | white vinegar | 45 minutes
        """,
    ),
    Procedure(
        ask="cook the {x}",
        steps=(
            "Rinse the {x} under cold water",
            "Put the {x} into a pot with {a}",
            "Simmer it for {q} on low heat",
            "Let it rest under the lid before you serve it",
        ),
        things="""
            rice | two cups of water | 30 minutes | 15 minutes
            lentils | three cups of water | 40 minutes | 25 minutes
            potatoes | salted water | 30 minutes | 20 minutes
            oats | two cups of milk | 15 minutes | 5 minutes
            beans | vegetable stock | two hours | one hour
            quinoa | two cups of water | 30 minutes | 15 minutes
            pumpkin | vegetable stock | 45 minutes | 25 minutes
            millet | three cups of water | 40 minutes | 20 minutes
            carrots | salted water | 20 minutes | 15 minutes
        """,
    ),
    Procedure(
        ask="bake the {x}",
        steps=(
            "Heat the oven to {q}",
            "Stir {a} into the dough",
            "Put the {x} on the middle shelf",
            "Test it with a wooden stick and let it cool",
        ),
        things="""
            bread | dry yeast | two hours | 220 degrees
            apple cake | sliced apples | one hour | 180 degrees
            pizza | olive oil | 40 minutes | 250 degrees
            banana bread | ripe bananas | one hour | 170 degrees
            muffins | blueberries | 40 minutes | 190 degrees
            cookies | brown sugar | 30 minutes | 180 degrees
            cheese cake | cream cheese | two hours | 160 degrees
            scones | cold butter | 30 minutes | 220 degrees
        """,
    ),
    Procedure(
        ask="fry the {x}",
        steps=(
            "Dry the {x} well with a paper towel",
            "Coat the {x} with {a}",
            "Heat the oil to {q}",
            "Fry small portions until they are golden",
        ),
        things="""
            potato chips | a little salt | 30 minutes | 170 degrees
            fish | flour | 20 minutes | 180 degrees
            chicken | bread crumbs | 40 minutes | 175 degrees
            doughnuts | sugar | one hour | 180 degrees
            onion rings | beer batter | 20 minutes | 190 degrees
            tofu | corn starch | 20 minutes | 170 degrees
            shrimp | egg white | 15 minutes | 175 degrees
            zucchini | flour | 15 minutes | 180 degrees
        """,
        hazard="burn",
        shortcut="Drop the wet {x} straight into the smoking oil",
    ),
    Procedure(
        ask="sharpen the {x}",
        steps=(
            "Fix the {x} firmly on the table",
            "Draw {a} along the edge at {q}",
            "Turn it over and do the other side",
            "Wipe the {x} clean with an oily cloth",
        ),
        things="""
            kitchen knife | a wet whetstone | 15 minutes | 20 degrees
            bread knife | a ceramic rod | 20 minutes | 15 degrees
            scissors | fine sandpaper | 10 minutes | 60 degrees
            pocket knife | a pocket stone | 10 minutes | 20 degrees
            chisel | a diamond plate | 20 minutes | 25 degrees
            axe | a steel file | 30 minutes | 30 degrees
            cleaver | a wet whetstone | 20 minutes | 25 degrees
            garden shears | a steel file | 20 minutes | 40 degrees
        """,
        hazard="edge",
        shortcut="Run your bare thumb along the edge to test it",
    ),
    Procedure(
        ask="freeze the {x}",
        steps=(
            "Wash the {x} and let it dry",
            "Cut it into pieces of equal size",
            "Pack the {x} into {a}",
            "Write the date on it and freeze it at {q}",
        ),
        things="""
            berries | a flat tray | 20 minutes | minus 20 degrees
            spinach | freezer bags | 30 minutes | minus 18 degrees
            herbs | an ice cube tray | 15 minutes | minus 18 degrees
            mango | a glass box | 20 minutes | minus 18 degrees
            carrots | freezer bags | 30 minutes | minus 20 degrees
            mushrooms | a plastic box | 15 minutes | minus 18 degrees
            broccoli | a flat tray | 20 minutes | minus 20 degrees
            beans | freezer bags | 30 minutes | minus 18 degrees
        """,
    ),
    Procedure(
        ask="open the {x}",
        steps=(
            "Take the {x} off the heat",
            "Turn the valve slowly with {a}",
            "Wait until the hissing stops",
            "Lift the lid away from your face",
        ),
        things="""
            pressure cooker | an oven glove | 10 minutes
            car radiator | a thick rag | 45 minutes
            boiler valve | a pipe wrench | 20 minutes
            radiator | a bleed key | 15 minutes
            soda maker | a dry towel | 5 minutes
            air compressor | a wrench | 10 minutes
            espresso maker | a wet cloth | 15 minutes
        """,
        hazard="pressure",
        shortcut="Force the {x} open while it is still hot",
    ),
)
