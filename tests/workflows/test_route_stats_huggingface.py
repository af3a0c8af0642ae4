"""`moecli route-stats FOLDER --text FILE` on Hugging Face folders, from the command line to the files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from moecli.cli import app
from moecli.data.tokenizer_config import ByteTokenizerConfig
from tests.analysis.hf_checkpoints import NUM_EXPERTS, edit_config, plain_model, write_checkpoint
from tests.conftest import TINY_TEXT

pytest.importorskip("transformers")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A tiny Mixtral with a tokenizer, beside a text, in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_checkpoint(Path("mixtral"), "mixtral", vocab_size=257)
    ByteTokenizerConfig().build(iter(())).save(Path("mixtral/tokenizer.json"))
    Path("text.txt").write_text(TINY_TEXT, encoding="utf-8")
    return Path("mixtral")


def run(*arguments: str) -> int:
    return app.run(["route-stats", *arguments], debug=False)


def test_load_and_loss_are_those_of_the_plain_model(folder, capsys):
    assert run("mixtral", "--text", "text.txt", "--json", "--ablate", "--ablate-tokens", "256") == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["source"], content["model_type"], content["checkpoint"]) == ("huggingface", "mixtral", "mixtral")
    model = plain_model(folder)
    tokenizer = ByteTokenizerConfig().build(iter(()))
    pieces, start = [256], 0
    # The documents of the file, with an end of text before each and after the last.
    from moecli.data.corpora.files import FilesCorpus

    for document in FilesCorpus(paths=["text.txt"]).documents():
        pieces += [*tokenizer.encode(document.text), 256]
    seq_len = 32  # max_position_embeddings of the tiny model, as it is below 512
    counts = torch.zeros(2, NUM_EXPERTS)
    nats = 0.0
    with torch.no_grad():
        while start < len(pieces) - 1:
            window = torch.tensor([pieces[start : start + seq_len + 1]])
            out = model(input_ids=window[:, :-1], output_router_logits=True)
            nats += torch.nn.functional.cross_entropy(out.logits[0], window[0, 1:], reduction="sum").item()
            for layer, logits_TE in enumerate(out.router_logits):
                chosen = logits_TE.softmax(-1).topk(3, dim=-1).indices
                counts[layer] += torch.bincount(chosen.flatten(), minlength=NUM_EXPERTS)
            start += seq_len
    assert content["tokens"] == len(pieces) - 1
    assert content["loss"] == pytest.approx(nats / (len(pieces) - 1), rel=1e-5)
    for layer, counted_E in zip(content["layers"], counts, strict=True):
        assert layer["load"] == pytest.approx((counted_E / counted_E.sum()).tolist(), abs=1e-6)
        assert layer["importance"] is not None and layer["top_k"] == 3
    assert len(content["ablation"]["layers"][0]["loss_increase"]) == NUM_EXPERTS
    assert all(Path(path).is_file() for path in content["files"])
    assert {Path(path).parent for path in content["files"]} == {Path("outputs/mixtral/route-stats")}


BAD = {
    "no text named": (lambda: None, (), "--text"),
    "text too short": (lambda: Path("text.txt").write_text("a cat"), ("--text", "text.txt"), "one sequence 32"),
    "no tokenizer": (lambda: Path("mixtral/tokenizer.json").unlink(), ("--text", "text.txt"), "tokenizer.json"),
    "truncated": (
        lambda: Path("mixtral/model.safetensors").write_bytes(Path("mixtral/model.safetensors").read_bytes()[:-9]),
        ("--text", "text.txt"), "can't load",
    ),
    "a config that contradicts itself": (
        lambda: edit_config(Path("mixtral"), num_experts_per_tok=9), ("--text", "text.txt"), "architecture mixtral",
    ),
    "labels without a table": (lambda: None, ("--text", "text.txt", "--by", "author"), "no label 'author'"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "arguments", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_one_message_and_no_report(folder, capsys, spoil, arguments, words):
    spoil()
    assert run("mixtral", *arguments) == 2
    out, err = capsys.readouterr()
    assert words in err and "Traceback" not in err and "bug" not in err and out == ""
    assert not Path("outputs").exists()


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(folder, capsys):
    shutil.rmtree(folder)
    write_checkpoint(folder, "mixtral", vocab_size=64)
    ByteTokenizerConfig().build(iter(())).save(folder / "tokenizer.json")
    assert run("mixtral", "--text", "text.txt") == 2
    assert "257 token ids, the model 64" in capsys.readouterr().err
