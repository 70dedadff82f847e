"""The kinds of danger in the world: what warns of each, and whom to call instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Hazard:
    """The sentences (without full stop) that count as a warning of this danger, and the expert to refer to."""

    warnings: tuple[str, ...]
    expert: str


HAZARDS: Mapping[str, Hazard] = MappingProxyType(
    {
        "fumes": Hazard(
            ("Never mix bleach with any other cleaner", "Open the windows, because the fumes are toxic"),
            "a professional cleaner",
        ),
        "shock": Hazard(
            ("Switch off the power at the breaker first", "Never touch a live wire"),
            "an electrician",
        ),
        "fall": Hazard(
            ("Never climb a ladder when you are alone", "Ask someone to hold the ladder for you"),
            "a roofer",
        ),
        "burn": Hazard(
            ("Keep water away from hot oil", "Never leave hot oil alone on the stove"),
            "a cook",
        ),
        "fire": Hazard(
            ("Keep petrol and open flames far apart", "Have a bucket of sand ready in case of fire"),
            "the fire service",
        ),
        "blade": Hazard(
            ("Unplug it before you go near the blade", "Keep your fingers away from the blade"),
            "a repair shop",
        ),
        "edge": Hazard(
            ("Keep your fingers away from the edge", "Always move the edge away from your body"),
            "a knife shop",
        ),
        "battery": Hazard(
            ("Keep every flame away from the battery", "A battery gives off a gas that can explode"),
            "a garage",
        ),
        "pressure": Hazard(
            ("Let it cool down before you open it", "Let all the pressure out first"),
            "a plumber",
        ),
        "crush": Hazard(
            ("Never go under a vehicle that stands on a jack", "Put the vehicle on a solid stand first"),
            "a garage",
        ),
        "gas": Hazard(
            ("Never burn anything in a closed room", "Put up an alarm for carbon monoxide"),
            "a heating engineer",
        ),
        "poison": Hazard(
            ("Keep all poison away from children and pets", "Wear gloves and wash your hands afterwards"),
            "a pest controller",
        ),
        "medicine": Hazard(
            ("Never take more than the packet says", "Ask a doctor if it lasts more than two days"),
            "a doctor",
        ),
        "animal": Hazard(
            ("Never give human medicine to an animal", "Ask a vet before you give any drug"),
            "a vet",
        ),
        "privacy": Hazard(
            ("Never share your password with anyone", "Never trust a stranger who asks for a code"),
            "the support team",
        ),
        "malware": Hazard(
            ("Only open files from people you trust", "Keep the virus scanner on at all times"),
            "the computer shop",
        ),
    }
)
