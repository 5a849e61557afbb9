"""What assistants' code finds imported. Nothing can be imported later: the jail opens no file.

The heavy ones are named as text: the gateway itself must never load them, and works without them.
"""

import builtins
import codecs
import importlib
import importlib.resources
import io
import os
import sys
import time
import warnings
import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # a zygote with threads cannot be forked
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "MPLCONFIGDIR": "",
    "HOME": "/nonexistent",
    "TZ": "UTC",
}
NEEDED = ("pandas", "numpy", "matplotlib")
STANDARD = (
    "abc array base64 binascii bisect calendar cmath collections.abc colorsys contextlib copy csv ctypes dataclasses "
    "datetime decimal difflib enum fractions functools gc hashlib heapq html io itertools json keyword linecache "
    "locale math mmap numbers operator pprint random re resource secrets select signal socket statistics string struct "
    "subprocess textwrap threading time timeit tokenize traceback types typing unicodedata uuid warnings weakref zlib "
    "zoneinfo"
)
_NAMED = ("datetime", "json", "math", "re", "statistics")
"""What stands in every code's namespace without an import: people forget it."""
_CODECS = "ascii latin-1 cp1252 utf-16 utf-32 utf-8-sig unicode_escape punycode idna base64 hex rot13 zlib"
_PANDAS = (
    "core.methods.describe core.methods.selectn core.methods.select core.methods.to_dict core.reshape.reshape "
    "core.reshape.encoding core.computation.eval core.computation.expr core.computation.engines core.sparse.api "
    "io.formats.csvs io.formats.html io.formats.string io.formats.format io.formats.info io.json plotting._matplotlib "
    "tseries.holiday tseries.frequencies"
)
_MATPLOTLIB = (
    "pyplot dates ticker patches patheffects gridspec cm colors lines collections legend tri tri._tritools mlab "
    "backends.backend_agg figure table image"
)
_FONTS = ("DejaVu", "LastResort", "cm", "STIX")


@dataclass(frozen=True, slots=True)
class Known:
    """`names` stand in the namespace of every code; `versions` of the libraries, for messages."""

    names: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def load_plain() -> Known:
    """The standard library, as far as it only computes; local time is UTC."""
    os.environ["TZ"] = ENVIRONMENT["TZ"]
    time.tzset()
    for name in STANDARD.split():
        importlib.import_module(name)
    for name in _CODECS.split():
        codecs.lookup(name)
    _keep_zones()
    return Known({name: sys.modules[name] for name in _NAMED})


def load_full(cache_folder: str) -> Known:
    """pandas, numpy and matplotlib besides, and everything that they would import later. matplotlib keeps its list of
    fonts in `cache_folder`; nothing else is written."""
    os.environ.update(ENVIRONMENT, MPLCONFIGDIR=cache_folder)
    plain = load_plain()
    np, pd, matplotlib = (importlib.import_module(name) for name in ("numpy", "pandas", "matplotlib"))
    for prefix, names in (("pandas", _PANDAS), ("matplotlib", _MATPLOTLIB)):
        for name in names.split():
            importlib.import_module(f"{prefix}.{name}")
    importlib.import_module("mpl_toolkits.axes_grid1")
    plt = sys.modules["matplotlib.pyplot"]
    _keep_fonts(Path(matplotlib.get_data_path()))
    with warnings.catch_warnings(action="ignore"):
        _use_once(pd, np, plt)
    return Known(
        {**plain.names, "pd": pd, "np": np, "plt": plt},
        {each.__name__: each.__version__ for each in (pd, np, matplotlib)},
    )


def _keep_zones() -> None:
    """All time zones' files in memory (0.4 MB)."""
    files: dict[str, bytes] = {}
    for key in zoneinfo.available_timezones():
        *folders, name = key.split("/")
        try:
            files[key] = importlib.resources.files(".".join(["tzdata.zoneinfo", *folders])).joinpath(name).read_bytes()
        except (OSError, ModuleNotFoundError):
            continue  # a zone of this system that tzdata does not have

    def load(key: str) -> IO[bytes]:
        if key not in files:
            raise zoneinfo.ZoneInfoNotFoundError(f"no time zone found with key {key}")
        return io.BytesIO(files[key])

    zoneinfo.reset_tzpath(to=())
    sys.modules["zoneinfo._common"].load_tzdata = load  # type: ignore[attr-defined]


def _keep_fonts(data: Path) -> None:
    """matplotlib's own fonts in memory (a few MB), and no others: `open`, `exists` and `isfile` know them."""
    files = {
        str(place): path.read_bytes()
        for path in sorted((data / "fonts" / "ttf").glob("*.ttf"))
        if path.name.startswith(_FONTS)
        for place in {path, path.resolve()}
    }
    ours, exists, is_file = io.open, os.path.exists, os.path.isfile

    def kept(path: Any) -> bytes | None:
        path = os.fspath(path) if isinstance(path, os.PathLike) else path
        return files.get(f"{path}") if isinstance(path, str) else None  # FontPath hashes unlike its text

    def open_(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        font = kept(file) if mode == "rb" else None
        return io.BytesIO(font) if font is not None else ours(file, mode, *rest, **more)

    _replace(os.path, "exists", lambda path: kept(path) is not None or exists(path))
    _replace(os.path, "isfile", lambda path: kept(path) is not None or is_file(path))
    _replace(io, "open", open_)
    _replace(builtins, "open", open_)
    fonts = sys.modules["matplotlib.font_manager"].fontManager
    fonts.ttflist = [each for each in fonts.ttflist if each.fname in files]


def _replace(module: object, name: str, value: Callable[..., Any]) -> None:
    setattr(module, name, value)


def _use_once(pd: Any, np: Any, plt: Any) -> None:
    """What imports or caches at its first use does so now, and is shared by every child."""
    count = 200
    df = pd.DataFrame(
        {
            "ts": pd.date_range("2026-01-01", periods=count, freq="min", tz="UTC"),
            "device": ["a", "b"] * (count // 2),
            "value": np.linspace(0, 9, count) ** 2,
        }
    )
    df.groupby("device").value.agg(["mean", "std", "median", "max"])
    df.set_index("ts").value.resample("10min").mean().rolling(3).mean().ewm(span=3).mean()
    df.pivot_table(index="ts", columns="device", values="value").corr()
    df.merge(df, on="ts").describe().to_string()
    df.assign(hour=df.ts.dt.tz_convert("Europe/Rome").dt.hour).query("value > 1 and hour >= 0").eval("x = value * 2")
    pd.cut(df.value, 3), pd.get_dummies(df.device), df.device.str.upper(), pd.to_datetime(["2026-01-01"])
    df.to_dict("records"), df.to_json(), df.to_csv(), df.to_html(), str(df), df.info(buf=io.StringIO())
    np.fft.rfft(df.value), np.polyfit(range(count), df.value, 1), np.linalg.svd(np.eye(3)), np.histogram(df.value)
    np.random.default_rng(1).normal(size=3)
    figure, (upper, lower) = plt.subplots(2, 1)
    upper.plot(df.ts, df.value, label="x")
    upper.set_title(r"CO$_2$, $^\circ$C, $x \alpha$, é", fontweight="bold", style="italic")
    upper.legend()
    figure.autofmt_xdate()
    df.plot(x="ts", y="value", ax=upper)
    df.boxplot(ax=lower)
    (
        lower.imshow(np.eye(3)),
        lower.hist(df.value),
        lower.scatter(df.value, df.value),
        lower.text(1, 1, "a", family="monospace"),
    )
    figure.colorbar(lower.images[0])
    figure.tight_layout()
    figure.savefig(io.BytesIO(), format="png")
    plt.close("all")
