"""Computers, phones and accounts."""

from arm_models.demo.world.task import Procedure

PROCEDURES = (
    Procedure(
        ask="back up the {x}",
        steps=(
            "Connect the {x} to {a}",
            "Open the backup settings",
            "Select the files that you want to keep",
            "Start the backup and wait until it is done",
        ),
        things="""
            laptop | an external drive | two hours
            phone | a cloud account | one hour
            tablet | a home computer | one hour
            photo album | a memory stick | 45 minutes
            website | the web host | 30 minutes
            address book | a mail account | 10 minutes
            camera | a card reader | 20 minutes
            music library | a network drive | three hours
        """,
    ),
    Procedure(
        ask="speed up the {x}",
        steps=(
            "Restart the {x}",
            "Delete what you no longer use",
            "Install {a}",
            "Turn off programs that start by themselves",
        ),
        things="""
            old computer | more memory | one hour
            browser | an ad blocker | 10 minutes
            smart phone | the latest update | 30 minutes
            game console | a faster drive | 45 minutes
            home network | a new router | one hour
            smart television | fresh firmware | 20 minutes
            tablet | the latest update | 30 minutes
        """,
    ),
    Procedure(
        ask="connect the {x}",
        steps=(
            "Switch on the {x} and wait a moment",
            "Plug in {a}",
            "Open the list of devices and pick the {x}",
            "Confirm the connection and test it",
        ),
        things="""
            printer | a printer cable | 15 minutes
            headphones | a radio stick | 5 minutes
            keyboard | a usb receiver | 5 minutes
            second screen | a video cable | 10 minutes
            scanner | a usb cable | 15 minutes
            game pad | a charging cable | 5 minutes
            microphone | an audio adapter | 10 minutes
            projector | a long video cable | 15 minutes
        """,
    ),
    Procedure(
        ask="get the dust out of the {x}",
        steps=(
            "Turn the {x} off and unplug it",
            "Take off the cover",
            "Blow the dust out with {a}",
            "Put the cover back on the {x}",
        ),
        things="""
            laptop fan | canned air | 20 minutes
            desktop computer | a small brush | 40 minutes
            game machine | a hand pump | 30 minutes
            typewriter | a soft brush | 30 minutes
            amplifier | a paint brush | 20 minutes
            air filter | a vacuum hose | 10 minutes
        """,
    ),
    Procedure(
        ask="reset the password of the {x}",
        steps=(
            "Open the login page of the {x}",
            "Choose the link for a forgotten password",
            "Enter the code from {a}",
            "Type a new password of {q}",
        ),
        things="""
            email account | a text message | 10 minutes | 12 letters
            bank account | the bank card | 20 minutes | 16 letters
            router | the sticker below | 15 minutes | 20 letters
            online shop | an email | 5 minutes | 12 letters
            cloud account | a second phone | 10 minutes | 16 letters
            video account | an email | 5 minutes | 10 letters
            tax account | a paper letter | three days | 16 letters
        """,
        hazard="privacy",
        shortcut="Send your old password to a stranger who offers help",
    ),
    Procedure(
        ask="install a program on the {x}",
        steps=(
            "Make sure that the {x} has {q} free",
            "Download the program from {a}",
            "Open the file and follow the steps",
            "Restart the {x} when it is finished",
        ),
        things="""
            work laptop | the company store | 30 minutes | 10 gigabytes
            family computer | the official page | 20 minutes | 5 gigabytes
            mini computer | the package source | 40 minutes | 2 gigabytes
            reading tablet | the app store | 10 minutes | 1 gigabyte
            school computer | the school server | 30 minutes | 5 gigabytes
            media player | a signed link | 15 minutes | 1 gigabyte
        """,
        hazard="malware",
        shortcut="Turn off the virus scanner and open any file",
    ),
)
