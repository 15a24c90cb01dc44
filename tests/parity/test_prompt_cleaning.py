"""Prompts are cleaned as the released V1-V3 pipelines clean them."""

import json

import pytest
from conftest import GOLDEN, part

cleaning = part("easyanimate_models.text_encoders.prompt_cleaning")
ROWS = json.loads((GOLDEN / "v3_prompt_cleaning.json").read_text(encoding="utf-8"))["rows"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["prompt"][:20])
def test_a_prompt_is_cleaned_as_the_original_cleans_it(row):
    assert cleaning.clean_prompt(row["prompt"]) == row["clean_caption_true"]
