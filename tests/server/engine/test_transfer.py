"""What goes to the device and back arrives as it was."""

import torch

from server.engine.transfer import Download, fill_in, upload

CPU = torch.device("cpu")


def test_lists_go_there_and_back() -> None:
    sent = {"whole": upload([3, -1], CPU, torch.long), "half": upload([[0.5], [2.0]], CPU, torch.float32)}
    assert sent["whole"].dtype == torch.long and sent["half"].dtype == torch.float32
    assert Download(sent).wait() == {"whole": [3, -1], "half": [[0.5], [2.0]]}
    assert upload([], CPU, torch.long).dtype == torch.long


def test_tokens_below_zero_are_those_that_were_drawn() -> None:
    drawn = torch.tensor([70, 80, 90])
    for dtype in (torch.int32, torch.int64):
        tokens = torch.tensor([5, -3, 0, -1, -1], dtype=dtype)
        filled = fill_in(tokens, drawn)
        assert filled.tolist() == [5, 90, 0, 70, 70]
        assert filled.dtype == dtype
    assert fill_in(tokens, None) is tokens
