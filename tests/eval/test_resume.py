"""Generation killed at any moment resumes and writes the same bytes; so do two processes."""

import json
from pathlib import Path

import pytest

from data_prep.prepare import prepare
from data_prep.recipe import load_recipe
from tests.conftest import command, derived_recipe

pytestmark = pytest.mark.slow

# The model is loaded once, on one core and one thread, so that the forked children, which are
# killed, need no thread of their parent.
KILLS = """
import json, os, random, signal, sys, time
from pathlib import Path
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import torch
torch.set_num_threads(1)
from accelerate import PartialState
from data_prep.prompt import read_examples
from data_prep.recipe import load_recipe
from data_prep.settings import Decoding
from eval.generate import Summarizer
from eval.predictions import generate_file
from eval.signature import generation_key

recipe, folder = load_recipe(sys.argv[1]), Path(sys.argv[2])
examples = read_examples(recipe.data_dir / "test.jsonl")[:8]
decoding = Decoding(dtype="float32", max_new_tokens=12, batch_tokens=700)
summarizer = Summarizer(recipe, decoding)
batches = summarizer.batches(examples)
KEY = generation_key(recipe, "base", decoding, "rows", None)

def generate(name):
    (folder / name).mkdir(exist_ok=True)
    path = folder / name / "predictions.base.jsonl"
    child = os.fork()
    if not child:
        generate_file(path, KEY, examples, batches, summarizer.summarize,
                      PartialState(cpu=True))
        os._exit(0)
    return child, path

start = time.monotonic()
child, path = generate("whole")
assert os.waitpid(child, 0)[1] == 0
took, whole = time.monotonic() - start, path.read_bytes()
chance, trials = random.Random(int(sys.argv[3])), []
for trial in range(10):
    child, path = generate(str(trial))
    time.sleep(chance.uniform(0, took))
    os.kill(child, signal.SIGKILL)
    killed = os.waitpid(child, 0)[1] == signal.SIGKILL
    shard = path.with_name(".predictions.base.0.partial.jsonl")
    kept = shard.read_bytes().count(b"\\n") - 1 if shard.exists() else None
    child, path = generate(str(trial))
    assert os.waitpid(child, 0)[1] == 0
    trials.append({"killed": killed, "kept": kept, "same": path.read_bytes() == whole,
                   "left": sorted(p.name for p in path.parent.iterdir())})
print(json.dumps({"batches": len(batches), "rows": whole.count(b"\\n"), "trials": trials}))
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, shallow_smollm2: Path) -> Path:
    path = derived_recipe(
        "smollm2_samsum", tmp_path_factory.mktemp("resume"), "resume",
        base_model=str(shallow_smollm2),
        summarization__decoding={"max_new_tokens": 12, "batch_tokens": 700, "dtype": "float32"},
    )  # fmt: skip
    prepare(load_recipe(path))
    return path


def test_kill_9_at_ten_random_moments_gives_the_same_file(recipe: Path, tmp_path: Path) -> None:
    done = command("python", "-c", KILLS, recipe, tmp_path, "20261123")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rows"] == 8 and found["batches"] >= 3
    assert [trial["same"] for trial in found["trials"]] == [True] * 10
    for trial in found["trials"]:
        assert trial["left"] == [".predictions.base.key.json", "predictions.base.jsonl"]
    # the kills must hit different moments: before the first batch and between batches
    killed = [trial["kept"] for trial in found["trials"] if trial["killed"]]
    # if the machine's speed drifts, some kills come too late
    assert len(killed) >= 5 and len({kept for kept in killed if kept}) >= 2, found


def test_two_processes_write_what_one_writes(recipe: Path, tmp_path: Path) -> None:
    flags = ["-m", "eval.run", recipe, "--models", "base", "--limit", 8, "--output"]
    one = command("python", *flags, tmp_path / "one")
    assert one.returncode == 0, one.stderr[-3000:]
    two = command("torchrun", "--nproc-per-node", 2, *flags, tmp_path / "two")
    assert two.returncode == 0, two.stderr[-3000:]
    name = "predictions.base.jsonl"
    assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert two.stdout.count("report.html") == one.stdout.count("report.html") > 0
    left = {path.name for path in (tmp_path / "two").iterdir()}
    assert left == {path.name for path in (tmp_path / "one").iterdir()}
