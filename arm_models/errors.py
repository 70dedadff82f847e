"""What a user did wrong, said in one line.

UserError          the message is for the person who ran the command: exit code 2, no traceback
└── CheckpointError    a model folder, adapter or tokenizer that cannot be used, and why
"""


class UserError(Exception):
    """Bad input of the person who ran a command; ``str(error)`` is one clear line that names the field and what is allowed."""


class CheckpointError(UserError):
    """A checkpoint that is missing, torn, of an unsupported kind or does not fit the others."""
