"""``mypt params`` as a user sees it."""

import json
from pathlib import Path

import pytest
from conftest import Mypt

pytestmark = pytest.mark.e2e


def test_the_formula_is_shown_with_its_numbers_and_sums(mypt: Mypt) -> None:
    code, out, _ = mypt("params", "tiny")
    assert code == 0
    assert "tiny (gpt): 11,510,784 parameters" in out
    assert "= V·E + T·E + 4·L·E² + 8·L·E² + L·E + 5·L·E + 4·L·E + 2·E + V" in out
    assert "= 50304·192 + 128·192 + 4·4·192²" in out
    told = json.loads(mypt("params", "tiny", "--json")[1])
    assert told["parameters"] == sum(part["parameters"] for part in told["parts"].values()) == 11_510_784
    assert told["advice"] is None


def test_flags_alone_make_a_model_and_win_over_a_preset(mypt: Mypt) -> None:
    flags = ("--layers", "4", "--heads", "4", "--width", "192", "--context", "128", "--vocab-size", "50304")
    alone = json.loads(mypt("params", *flags, "--json")[1])
    assert alone["parameters"] == 11_510_784
    untied = json.loads(mypt("params", "tiny", "--untied", "--json")[1])
    assert untied["parameters"] == 21_169_152
    assert json.loads(mypt("params", "tiny", "model.n_layer=8", "--layers", "2", "--json")[1])["model"]["n_layer"] == 2


def test_every_tokenizer_has_a_row_and_the_datasets_own_counts(mypt: Mypt, run_file: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("abcabc\n")
    dataset = json.loads(run_file.read_text())["data"]["path"]
    told = json.loads(mypt("params", run_file, "--text", text, "--tokenizer", dataset, "--json")[1])
    assert told["symbols"]["V"]["value"] == 320
    assert told["vocabulary"] == f"the byte tokenizer of {dataset}"
    rows = {row["tokenizer"]: (row["ids"], row["rows"]) for row in told["tokenizers"]}
    assert rows == {"gpt2": (50_274, 50_304), "byte": (274, 320), dataset: (274, 320), f"char of {text}": (23, 64)}


def test_a_budget_of_tokens_or_of_time_gets_advice_with_its_sources(mypt: Mypt) -> None:
    advice = json.loads(mypt("params", "150m", "--tokens", "2e9", "--json")[1])["advice"]
    assert advice["rule"]["parameters"] == pytest.approx(1e8)
    assert advice["this_model"]["tokens_per_parameter"] == pytest.approx(2e9 / 152_447_616)
    timed = json.loads(mypt("params", "150m", "--hours", "2", "--tokens-per-second", "1e5", "--json")[1])["advice"]
    assert timed["this_model"]["tokens"] == pytest.approx(7.2e8)
    on_gpus = json.loads(mypt("params", "150m", "--hours", "1", "--gpu", "h100", "--gpus", "8", "--json")[1])["advice"]
    assert on_gpus["this_model"]["flops"] == pytest.approx(3600 * 8 * 989e12 * 0.4)
    out = mypt("params", "tiny", "--tokens", "1e9")[1]
    assert "arXiv:2203.15556" in out
    assert "arXiv:2404.10102" in out
    assert "this model is small for the budget" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tiny", "--heads", "5"), "n_head 5 must divide n_embd 192"),
        (("--layers", "2"), "model.context"),
        (("tiny", "--hours", "2"), "--hours is a budget only with a rate"),
        (("tiny", "--tokens", "1e9", "--flops", "1e18"), "three ways to say one budget"),
        (("tiny", "--tokens", "-1"), "larger than nothing"),
        (("tiny", "--hours", "1", "--gpu", "abacus"), "not in the table"),
        (("model.n_layer=2",), "name it first"),
        (("tinny",), "did you mean"),
    ],
)
def test_mistakes_end_with_2_and_a_word(mypt: Mypt, arguments: tuple[str, ...], said: str) -> None:
    code, _, err = mypt("params", *arguments)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
