"""Makes every case with checkpoints.py and with make_checkpoint.c and compares the bytes.

Run: python test_checkpoints.py [CC]
"""

import pathlib
import subprocess
import sys
import tempfile

import checkpoints
import exl3


def pairs_of_bits_and_codebook(case, tensors):
    for name, _, shape, _ in tensors:
        if name.endswith(".trellis"):
            yield shape[2] // 16, case.setting(name, "codebook")


def main():
    cc = sys.argv[1] if len(sys.argv) > 1 else "cc"
    source = checkpoints.CASES.parent / "make_checkpoint.c"
    cases = checkpoints.read_cases()
    pairs = set()
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        maker = str(work / "make_checkpoint")
        subprocess.run([cc, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", maker,
                        str(source)], check=True)
        command = [maker, "-c", str(checkpoints.CASES)]
        listed = subprocess.run(command + ["list"], check=True, capture_output=True, text=True)
        assert listed.stdout.split() == list(cases)
        for case in cases.values():
            ours, theirs = work / "python", work / "c"
            checkpoints.make_checkpoint(case, ours)
            subprocess.run(command + [case.name, str(theirs)], check=True)
            names = sorted(path.name for path in ours.iterdir())
            assert names == sorted(path.name for path in theirs.iterdir()), case.name
            for name in names:
                same = (ours / name).read_bytes() == (theirs / name).read_bytes()
                assert same, f"{case.name}: {name} differs"
            exl3.read_directory(ours)
            if case.name.startswith("llama-mixed"):
                pairs |= set(pairs_of_bits_and_codebook(case, checkpoints.Maker(case).model()))
            for directory in (ours, theirs):
                for path in directory.iterdir():
                    path.unlink()
    missing = {(k, book) for k in range(1, 9) for book in exl3.CODEBOOKS} - pairs
    assert not missing, f"the mixed cases lack {sorted(missing)}"
    print("the same bytes from C and Python:")
    print(f"{len(cases)} passed, 0 failed, 0 skipped")


if __name__ == "__main__":
    main()
