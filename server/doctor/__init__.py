"""What stands in the way of serving a deployment here, found without loading a model.

check.py       one thing that was looked at
packages.py    Python and the libraries, and whether their versions will do
machine.py     cores, memory, devices
model.py       a checkpoint as its config and the headers of its weights describe it
capacity.py    what the models of a device take, and how many answers of which length fit beside them
surroundings.py  the port, the keys, the templates, the extras
diagnosis.py   all of it for one deployment
report.py      the same as text and as JSON
"""

from server.doctor.diagnosis import Diagnosis, diagnose
from server.doctor.report import as_json, as_text

__all__ = ["Diagnosis", "as_json", "as_text", "diagnose"]
