"""A merged folder that may be given away: of this adapter, unchanged, and proved equal to it.

Use: `folder, proof = proved(recipe, adapter)`.
"""

import json
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.recipe import Recipe
from scripts.merging.folder import PROOF, changed_files, made_of, recorded


def proved(recipe: Recipe, adapter: Path) -> tuple[Path, dict[str, Any]]:
    """`<output_dir>/merged` and its proof; raises UserError where that does not stand there."""
    folder = recipe.output_dir / "merged"
    again = f"run `python -m scripts.merge {recipe.path}`"
    if recorded(folder).get("made_of") != made_of(recipe, adapter):
        raise UserError(f"{folder}: holds no merge of this adapter; {again}")
    if changed := changed_files(folder):
        raise UserError(
            f"{folder}: {', '.join(changed[:3])} changed since the merge; remove the folder, and "
            f"{again}"
        )
    try:
        proof = json.loads((folder / PROOF).read_text("utf-8"))
        good, exceeded = proof["good"], proof["exceeded"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{folder / PROOF}: missing or damaged ({error}); {again}") from error
    if not good:
        raise UserError(
            f"{folder / PROOF}: says that the merge is not good ({'; '.join(exceeded)}); publish "
            "the adapter, without --merged"
        )
    return folder, proof
