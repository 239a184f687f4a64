"""What a user can get wrong beyond files and parameters: embeddings that are no directions, a bank of another space."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from helpers.models import make_test_base

from assl_kit import Redistributor, SilverSight, mmr_select
from assl_kit.app.cli import main
from assl_kit.artifacts.parameters import resolve
from assl_kit.artifacts.steps import require
from assl_kit.artifacts.workspace import Workspace
from assl_kit.data.records import prompts
from assl_kit.data.synthetic import make_corpus
from assl_kit.errors import BankError, DataError
from assl_kit.experts.bank import Provenance
from assl_kit.experts.train_experts import Chosen, train_experts
from assl_kit.model.identity import base_info
from assl_kit.model.loading import load_base
from assl_kit.space.encoder import encode, load_encoder

TEXTS = ["公司净利润同比增长三成", "董事会选举新任董事长", "债券市场收益率下行", "法院裁定公司破产"]


def broken_encoder(folder, value: float):
    """A saved encoder whose token vectors are all ``value``, so that no text has a direction."""
    import torch

    encoder = load_encoder("fit", texts=TEXTS, dim=4, seed=0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.fill_(value)
    encoder.save(str(folder))
    return str(folder)


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_a_nan_or_zero_embedding_is_refused_by_record(tmp_path, value):
    name = broken_encoder(tmp_path / "encoder", value)
    parameters = resolve("tiny", n_records=200, encoder=name)
    ws = Workspace.open(tmp_path / "ws")
    with pytest.raises(DataError, match="not finite" if value != 0 else "is zero") as caught:
        require(ws, "embeddings", parameters)
    first = ws.table("records.parquet").iloc[0]
    assert repr(first["id"]) in str(caught.value) and first["instruction"][:10] in str(caught.value)
    assert not ws.has("embeddings.safetensors")


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_a_nan_or_zero_row_is_refused_by_the_kernels(value):
    X = np.eye(4, dtype=np.float32)
    X[2] = value
    with pytest.raises(DataError, match=r"row 2"):
        mmr_select(X, 2, centroid=X[0])
    with pytest.raises(DataError, match=r"row 2"):
        Redistributor(min_samples=1).fit_select(X, np.zeros(4, int), 2)


def test_a_bank_with_another_encoder_is_refused(tmp_path, monkeypatch, capsys):
    model, tokenizer = load_base(str(make_test_base(tmp_path / "base")))
    records = make_corpus(200)
    encoder = load_encoder("fit", texts=TEXTS, dim=4, seed=0)
    encoder.save(str(tmp_path / "encoder"))
    chosen = records.iloc[:2][["id"]].assign(cluster=[0, 1], copies=1)
    X = encode(encoder, prompts(records.iloc[:2]))
    info = {"id": str(tmp_path / "encoder"), "fingerprint": "0" * 64, "dim": 4}  # not what is saved there
    base = base_info(model, tokenizer, "base")
    rows = Chosen(records, chosen, X)
    train_experts(model, tokenizer, rows, tmp_path / "bank", origin=Provenance(base, info))
    capsys.readouterr()

    with pytest.raises(BankError, match="encoder"):
        SilverSight.from_pretrained(tmp_path / "bank", base=str(tmp_path / "base"), encoder=encoder)
    monkeypatch.setattr(sys, "argv", ["assl", "route", "净利润增长", "--bank", str(tmp_path / "bank")])
    with pytest.raises(SystemExit) as caught:
        main()
    error = capsys.readouterr().err
    assert caught.value.code == 2 and "encoder" in error and "Traceback" not in error
    assert [line for line in error.splitlines() if line.startswith("assl: ")] == error.splitlines()[-1:]
