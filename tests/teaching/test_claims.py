"""claims.py, and that every check of the notebooks is a claim or says what is wrong."""

from __future__ import annotations

import ast

import nbformat
import pytest
from helpers import ROOT

from assl_kit.teaching.claims import claims

CHAIN = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def test_a_claim_must_hold_in_the_default_run_and_is_reported_elsewhere(capsys):
    claims(default=True)("the sky is blue", True)
    assert capsys.readouterr().out == ""
    with pytest.raises(AssertionError, match="in the default run this does not hold: the sky is green"):
        claims(default=True)("the sky is green", False)
    for holds, told in ((True, "holds here: it rains\n"), (False, "does not hold here: it rains\n")):
        claims(default=False)("it rains", holds)
        assert capsys.readouterr().out == told


@pytest.mark.parametrize("path", CHAIN, ids=lambda path: path.stem)
def test_no_assertion_of_a_notebook_is_bare(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            for node in ast.walk(ast.parse(cell.source)):
                assert not isinstance(node, ast.Assert) or node.msg is not None, ast.unparse(node)
