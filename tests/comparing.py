"""How the tests of the model compare what it gives, and leave inputs out."""

import pytest
import torch

TOLERANCE = 1e-5

both_states = pytest.mark.parametrize("seg_state", ["token", "previous"])


def without(batch, *names):
    return {name: value for name, value in batch.items() if name not in names}


def assert_close(found, expected, tolerance=TOLERANCE):
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
