"""The trap of the tests with a stranger's files, the check of a folder, and how a refusal looks."""

from __future__ import annotations

import pickle

import pytest
from helpers.hostile import Hostile
from helpers.models import make_test_base, save_test_encoder

from assl_kit.common import trust
from assl_kit.errors import AsslError, DataError
from assl_kit.model.loading import load_base
from assl_kit.space.encoder import load_encoder


def test_the_trap_works(marker, program):
    """Else the tests below could not fail."""
    pickle.loads(pickle.dumps(Hostile(marker)))
    assert marker.is_dir()
    marker.rmdir()
    import evil_module  # noqa: F401

    assert marker.is_dir()
    marker.rmdir()


@pytest.mark.timeout(60)
def test_a_card_that_repeats_itself_is_read_to_its_end(tmp_path):
    """Each part names the one before nine times; spelt out they are more than there are atoms."""
    parts = ["p0: &p0 [x]"] + [f"p{n}: &p{n} [{', '.join([f'*p{n - 1}'] * 9)}]" for n in range(1, 30)]
    card = tmp_path / "README.md"
    card.write_text("---\n" + "\n".join(parts) + "\n---\n", encoding="utf-8")
    assert trust.check_dataset_folder(tmp_path) is None
    card.write_text("---\n" + "\n".join([*parts, "configs: [{data_files: ../x}]"]) + "\n---\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"README\.md names data outside the folder: \.\./x"):
        trust.check_dataset_folder(tmp_path)


def test_every_refusal_is_an_error_of_ours(tmp_path):
    """The command line shows those without a traceback."""
    encoder, base = save_test_encoder(tmp_path / "encoder"), make_test_base(tmp_path / "base")
    (encoder / "modules.json").write_text("{", encoding="utf-8")
    (base / "config.json").write_text("{", encoding="utf-8")
    for load in (lambda: load_encoder(str(encoder)), lambda: load_base(str(base), device="cpu")):
        with pytest.raises(AsslError):
            load()
