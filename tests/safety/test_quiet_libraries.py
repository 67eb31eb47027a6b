"""Messages of libraries that a user cannot act on are filtered, and no others."""

import logging
import warnings

import pytest

from gemma_lisa.safety.quiet_libraries import quiet_libraries


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bitsandbytes.backends.cpu.ops", "Failed to load CPU gemm_4bit_forward from kernels-community: %s."),
        ("DeepSpeed", "Setting accelerator to CPU. If you have GPU or other accelerator, we were unable to detect it."),
        ("transformers.utils.import_utils", "`A` requires torchvision (not installed); falling back to `APil`"),
    ],
)
def test_known_messages_are_dropped_and_others_are_not(name, text):
    quiet_libraries()
    quiet_libraries()
    logger = logging.getLogger(name)
    known, other = (logging.LogRecord(name, logging.WARNING, "", 0, line, (), None) for line in (text, "another"))
    assert not logger.filter(known) and logger.filter(other)
    assert len([found for found in logger.filters if getattr(found, "__module__", "").startswith("gemma_lisa.")]) == 1


def test_the_deprecation_of_script_method_is_not_shown():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        quiet_libraries()
        warnings.warn("`torch.jit.script_method` is deprecated. Please switch.", DeprecationWarning, stacklevel=1)
        warnings.warn("another", DeprecationWarning, stacklevel=1)
    assert [str(warning.message) for warning in shown] == ["another"]
