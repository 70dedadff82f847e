"""When Python looks for garbage: a look at all that a server consists of stops every thread for a third of a second or more."""

import gc


def set_aside() -> None:
    """What is there now is there to stay: later looks pass it over, and take milliseconds. Looks at everything once before."""
    gc.collect()
    gc.freeze()


def look_everywhere() -> None:
    """Give back what only cycles hold, also of what was set aside."""
    aside = gc.get_freeze_count() > 0
    gc.unfreeze()
    gc.collect()
    if aside:
        gc.freeze()
