"""Speed of the lossless JPEG decoder beside PVRG's own, on one thread.

    python tests/benchmarks/ljpeg.py [--rows 4000] [--columns 2500] [--pairs 7]

The film is a phantom of about that size as a HOWTEK scanner stores it (12 bits, predictor 7). Both decoders read the file, and PVRG's
(`pvrg-jpeg`, Debian) writes its pixels to another, in memory where there is /dev/shm. PVRG's time is that of its process; less the time
that the process takes for a film of one pixel, it is stated too. The two take turns, and the medians are of the pairs.

Then what a user waits for besides: the first film of a process, with an empty cache of compiled code, and with a filled one.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from timeit import timeit

import numpy as np

from mammo_etl.ljpeg import decode
from mammo_etl.phantom.breast import make_breast
from mammo_etl.phantom.ljpeg_writer import encode
from mammo_etl.records import View

_FIRST_FILM = """
import sys, time
begun = time.perf_counter()
from pathlib import Path
from mammo_etl.ljpeg import decode
imported = time.perf_counter()
decode(Path(sys.argv[1]).read_bytes())
print(imported - begun, time.perf_counter() - imported)
"""


def howtek_film(rows: int, columns: int) -> np.ndarray:
    """Grey levels of a phantom breast with the grain of film, (rows, columns), 12 bits."""
    generator = np.random.default_rng(0)
    tissue = make_breast(generator, View.MLO, 0.8, 3, rows, columns, 240 / rows).tissue
    grain = generator.standard_normal((rows, columns), np.float32) * 0.006
    density = 3.0 - 2.95 * np.clip(tissue + grain + 0.02, 0, 1)
    return np.rint((3.789 - density) / 0.00094568).astype(np.uint16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--columns", type=int, default=2500)
    parser.add_argument("--pairs", type=int, default=7, help="at least 5")
    arguments = parser.parse_args()
    pvrg = shutil.which("pvrg-jpeg")
    if pvrg is None:
        sys.exit("pvrg-jpeg is not installed: expected it on the PATH (Debian package pvrg-jpeg)")
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        film, pixel = folder / "film.LJPEG", folder / "pixel.LJPEG"
        pixels = howtek_film(arguments.rows, arguments.columns)
        film.write_bytes(encode(pixels, 12, 7))
        pixel.write_bytes(encode(pixels[:1, :1], 12, 7))

        def by_pvrg(path: Path) -> None:
            command = [pvrg, "-d", "-s", str(path), "-o", str(folder / "out")]
            subprocess.run(command, check=True, capture_output=True)

        by_pvrg(film)
        read_back = np.fromfile(folder / "out.1", ">u2").reshape(pixels.shape)
        assert np.array_equal(decode(film.read_bytes()), pixels)
        assert np.array_equal(read_back, pixels)
        ours, whole, net = [], [], []
        for _ in range(max(5, arguments.pairs)):
            ours.append(timeit(lambda: decode(film.read_bytes()), number=1))
            start_up = timeit(lambda: by_pvrg(pixel), number=1)
            whole.append(timeit(lambda: by_pvrg(film), number=1))
            net.append(whole[-1] - start_up)
        megapixels = pixels.size / 1e6
        size = f"{arguments.rows} x {arguments.columns} = {megapixels:.1f} Mpx"
        print(f"{size}, {8 * film.stat().st_size / pixels.size:.1f} bits a pixel, {len(ours)} pairs\n")
        print("| decoder | s | Mpx/s | times PVRG: median | least of the pairs |\n|---|---|---|---|---|")
        print(f"| mammo | {median(ours):.3f} | {megapixels / median(ours):.0f} | | |")
        for title, theirs in (("PVRG, whole process", whole), ("PVRG, less its start-up", net)):
            ratios = [there / here for there, here in zip(theirs, ours, strict=True)]
            speed = f"{median(theirs):.3f} | {megapixels / median(theirs):.1f}"
            print(f"| {title} | {speed} | {median(ratios):.1f} | {min(ratios):.1f} |")

        # With the compiled Python files that an installation has, which this environment may be told not to write.
        environment = os.environ | {
            "NUMBA_CACHE_DIR": str(folder / "numba"),
            "PYTHONPYCACHEPREFIX": str(folder / "pyc"),
            "PYTHONDONTWRITEBYTECODE": "",
        }
        first = [sys.executable, "-c", _FIRST_FILM, str(pixel)]
        print("\n| first film of a process | import, s | first film, s |\n|---|---|---|")
        for title in ("(files of Python itself not compiled yet)", "cache empty", "cache filled"):
            if title == "cache empty":
                shutil.rmtree(folder / "numba")
            done = subprocess.run(first, env=environment, check=True, capture_output=True, text=True)
            imported, decoded = map(float, done.stdout.split())
            print(f"| {title} | {imported:.1f} | {decoded:.1f} |")


if __name__ == "__main__":
    main()
