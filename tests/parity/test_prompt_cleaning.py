"""Prompts are cleaned as the released V1-V3 pipelines clean them."""

import json

from support.pack import part
from support.recorded import RECORDED, each

cleaning = part("easyanimate_models.text_encoders.prompt_cleaning")
FILE = RECORDED / "v3_prompt_cleaning.json"
ROWS = json.loads(FILE.read_text(encoding="utf-8"))["rows"] if FILE.exists() else []


@each("row", ROWS, ids=lambda row: row["prompt"][:20] if row else None)
def test_a_prompt_is_cleaned_as_the_original_cleans_it(row):
    assert cleaning.clean_prompt(row["prompt"]) == row["clean_caption_true"]
