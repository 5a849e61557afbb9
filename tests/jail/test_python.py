"""What assistants' code gets and gives: tables in, values and pictures out, errors in one line, forged answers."""

# ruff: noqa: E501, ISC004 - code and what is said of it, as they are

import asyncio
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.jail import png, values
from gateway.jail.analysis import (
    FULL_DPI,
    INLINE_BYTES,
    STDOUT_CHARACTERS,
    Analysis,
    CodeFailed,
)
from gateway.jail.table import Column, Table
from tests.jail.python_tools import READINGS, ask, in_one_gateway, table


@in_one_gateway
async def test_a_table_arrives_as_it_was(analysis: Analysis) -> None:
    assert await ask(analysis, "{name: str(kind) for name, kind in df.dtypes.items()}") == {
        "device_id": "str",
        "time": "datetime64[us]",
        "co2": "float64",
        "n": "int64",
        "gap": "float64",
        "wide": "Int64",
        "ok": "bool",
        "maybe": "boolean",
        "n_1": "float64",
    }
    rows = (await ask(analysis, "df"))["rows"]
    assert rows[0] == ["küche", "2026-01-01T00:00:00", 600.5, 1, 1.0, 2**60 + 1, True, True, 0.5]
    assert rows[1] == ["bad", "2026-01-01T00:01:00", None, 2, None, None, False, None, 1.5]
    assert rows[2][:4] == [None, None, 800.0, 3]
    assert await ask(analysis, "df.co2 += 1\nresult = float(df.co2.sum())") == 1804.5  # it is theirs to write to
    bare = Table((Column("x", "DOUBLE", "f8", struct.pack("<2d", 1, 2), b"\1\0"),), 2)
    assert await ask(analysis, "df.x", bare) == [1.0, None]
    empty = table([("co2", "f8", []), ("device_id", "text", []), ("time", "ts", [])])
    assert await ask(analysis, "df", empty) == {"columns": ["co2", "device_id", "time"], "rows": [], "total": 0}


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("1 + 1", 2),
        ("result = 3\n7", 3),
        ("pass", None),
        ("df.n.tolist()", [1, 2, 3, 4]),
        ("np.float32(1.5), np.int8(3), np.bool_(True), np.array([[1, 2]])", [1.5, 3, True, [[1, 2]]]),
        ("float('nan'), float('inf'), pd.NaT, pd.NA, None", [None] * 5),
        ("df.groupby('device_id').co2.mean()", {"bad": 401.0, "küche": 600.5}),
        ("df.co2", [600.5, None, 800.0, 401.0]),
        ("df.set_index('n_1').n", {"0.5": 1, "1.5": 2, "2.5": 3, "3.5": 4}),
        ("pd.Series([1, 2], index=['a', 'a'])", [["a", 1], ["a", 2]]),
        (
            "pd.Timestamp('2026-01-01', tz='Europe/Rome'), pd.Timedelta('1h')",
            ["2026-01-01T00:00:00+01:00", "0 days 01:00:00"],
        ),
        ("np.datetime64('2026-01-01'), datetime.date(2026, 1, 2)", ["2026-01-01", "2026-01-02"]),
        ("pd.Period('2026-01'), pd.Index([1, 2]), pd.Categorical(['a'])", ["2026-01", [1, 2], ["a"]]),
        (
            "{'a': {1, 1}, (1, 'b'): df.head(1)[['n']]}",
            {"a": [1], "1 b": {"columns": ["n"], "rows": [[1]], "total": 1}},
        ),
        ("df.groupby(['device_id', 'ok']).n.sum()", {"bad False": 2, "bad True": 4, "küche True": 1}),
        (
            "df.pivot_table(index='device_id', values=['n', 'co2'], aggfunc=['max'])",
            {
                "columns": ["device_id", "max co2", "max n"],
                "rows": [["bad", 401.0, 4], ["küche", 600.5, 1]],
                "total": 2,
            },
        ),
        (
            "2 ** 62, 2 ** 64, 1j, len, b'x'",
            [2**62, "an integer of 65 bits", [0.0, 1.0], "<built-in function len>", "b'x'"],
        ),
        (
            "str(datetime.datetime(2026, 7, 1, tzinfo=__import__('zoneinfo').ZoneInfo('Asia/Tokyo')))",
            "2026-07-01 00:00:00+09:00",
        ),
    ],
)
@in_one_gateway
async def test_what_comes_back(analysis: Analysis, code: str, result: object) -> None:
    assert await ask(analysis, code) == result


@in_one_gateway
async def test_what_is_too_long_is_cut_and_says_so(analysis: Analysis) -> None:
    long = table([("n", "i8", range(5000)), ("text", "text", ["x" * 40] * 5000)])
    answer = await analysis.analyze(long, "print('y' * 30_000)\ndf")
    assert answer.cut == "the first 200 of 5000 rows"
    assert (answer.result["total"], len(answer.result["rows"])) == (5000, 200)
    assert (len(answer.stdout), answer.stdout_bytes) == (STDOUT_CHARACTERS, 30_001)
    for code in (
        "['x' * 9000] * 1000",
        "{i: 'x' * 100 for i in range(9999)}",
        "'x' * 10**6",
        "df.text",
        "[[[0] * 2000] * 2000] * 2000",
    ):
        answer = await analysis.analyze(long, code)
        assert len(json.dumps(answer.result, separators=(",", ":"))) <= values.RESULT_BYTES
        assert answer.cut
    assert values.bounded("x" * 10_000) == ("x" * 10_000, "")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("1 +", "SyntaxError: invalid syntax (line 1: 1 +)"),
        ("x = 1\ny = x / 0", "ZeroDivisionError: division by zero (line 2: y = x / 0)"),
        ("def f():\n  return df['c02']\nf()", "KeyError: 'c02' (line 2: return df['c02']); did you mean co2?"),
        (
            "df.devise_id",
            "AttributeError: 'DataFrame' object has no attribute 'devise_id' (line 1: df.devise_id); did you mean device_id?",
        ),
        (
            "df['zzz']",
            "KeyError: 'zzz' (line 1: df['zzz']); the columns of df are device_id, time, co2, n, gap, wide, ok, maybe, n_1",
        ),
        (
            "import scipy",
            "ModuleNotFoundError: No module named 'scipy' (line 1: import scipy); there are pandas, numpy, matplotlib, "
            "what only computes of the standard library",
        ),
        (
            "open('x')",
            "PermissionError: [Errno 1] Operation not permitted: 'x' (line 1: open('x')); code has no files, no network, "
            "no processes and no threads: it computes with df",
        ),
        (
            "np.ones(1 << 30)",
            "MemoryError: the code needs more memory than it may use: aggregate first, in SQL if possible",
        ),
        ("import os\nos._exit(7)", "the code ended its process (exit 7) before it had an answer"),
        ("import ctypes\nctypes.string_at(1)", "the code ended its process (SIGSEGV) before it had an answer"),
        ("x\0", "code: at most 50000 bytes of text"),
        ("#" * 50_001, "code: at most 50000 bytes of text"),
    ],
)
@in_one_gateway
async def test_an_error_is_one_line_with_its_place(analysis: Analysis, code: str, error: str) -> None:
    with pytest.raises(CodeFailed) as failed:
        await analysis.analyze(READINGS, code)
    assert str(failed.value) == error


@in_one_gateway
async def test_what_was_printed_before_an_error_is_kept(analysis: Analysis) -> None:
    with pytest.raises(CodeFailed) as failed:
        await analysis.analyze(READINGS, "print('so far')\n1 / 0")
    assert failed.value.stdout == "so far\n"


@in_one_gateway
async def test_time_is_up(analysis: Analysis) -> None:
    with pytest.raises(CodeFailed, match=r"the code was stopped: it took longer than 0\.3 s"):
        await analysis.analyze(READINGS, "while True: pass", limit_s=0.3)
    assert await ask(analysis, "1") == 1
    assert analysis.counts["analysis"].started == 1


@in_one_gateway
async def test_a_picture_comes_in_two_sizes(analysis: Analysis) -> None:
    plotted = await analysis.plot(
        READINGS,
        "plt.plot(df.time, df.co2, label='bad')\nplt.title('CO$_2$ ☺')\nplt.ylabel('ppm')\nplt.legend()\nprint('x')",
    )
    assert png.size(plotted.full) == (6.4 * FULL_DPI, 4.8 * FULL_DPI)
    assert plotted.inline == plotted.full  # small enough for both
    assert plotted.axes == ({"title": "CO$_2$ ☺", "x": "", "y": "ppm", "labels": ["bad"]},)
    assert plotted.stdout == "x\n"
    noise = "plt.imshow(np.random.default_rng(1).random((900, 1200, 3)))\nplt.axis('off')\nplt.tight_layout(pad=0)"
    plotted = await analysis.plot(READINGS, noise)
    assert len(plotted.inline) <= INLINE_BYTES < len(plotted.full)
    assert png.size(plotted.inline) < png.size(plotted.full)
    large = await analysis.plot(READINGS, "plt.figure(figsize=(100, 60))\nplt.plot([1, 2])")
    assert 1000 < max(png.size(large.full)) <= png.MOST_PIXELS
    for code, why in (
        ("1", "drew nothing"),
        ("plt.figure(figsize=(5000, 5000))", "5000 x 5000 inches"),
        ("plt.figure(figsize=(0.001, 5))", "inches"),
        ("plt.plot([1], [1, 2])", "ValueError"),
        ("plt.figure().savefig = lambda file, **more: file.write(b'<script>')", "spoilt its picture: not a PNG"),
    ):
        with pytest.raises(CodeFailed, match=why):
            await analysis.plot(READINGS, code)


@in_one_gateway
async def test_functions_need_no_pandas(analysis: Analysis) -> None:
    code = "def dew(t, h):\n    g = math.log(h / 100) + 17.62 * t / (243.12 + t)\n    return {'c': 243.12 * g / (17.62 - g)}"
    assert (await analysis.call(code, "dew", {"t": 20, "h": 50}, limit_s=60))["c"] == pytest.approx(9.26, abs=0.01)
    for code_, function, arguments, why in (
        (code, "dew", {"t": 20}, "missing 1 required positional argument: 'h'"),
        (code, "due", {}, "defines no function due"),
        (code, "dew", {"t": 20, "h": 0}, "expected a positive input|math domain error"),
        ("import pandas", "f", {}, "No module named 'pandas'"),
        ("def f(): open('/etc/passwd')", "f", {}, "no files"),
        ("def f():\n  while True: pass", "f", {}, r"took longer than 0\.3 s"),
    ):
        with pytest.raises(CodeFailed, match=why):
            await analysis.call(code_, function, arguments, limit_s=0.3 if "True" in code_ else 60)


@in_one_gateway
async def test_it_gives_way_to_everything_else(analysis: Analysis) -> None:
    """Processor, and memory where there is none left; code cannot change that."""
    await analysis.warm()
    pid = analysis.pids["analysis"]
    assert os.sched_getscheduler(pid) == os.SCHED_IDLE
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    with open(f"/proc/{pid}/oom_score_adj", encoding="ascii") as file:  # noqa: ASYNC230 - no medium behind it
        assert file.read().strip() == "1000"
    with open(f"/proc/{pid}/status", encoding="ascii") as file:  # noqa: ASYNC230
        said = file.read()
    assert {"NoNewPrivs:\t1", "CapEff:\t0000000000000000", "Seccomp:\t2"} <= set(said.splitlines())


async def test_memory_is_given_back_after_a_while(tmp_path: Path) -> None:
    async with Analysis(tmp_path, idle_s=0.05) as short:
        assert await short.call("def f(): return 1", "f", {}, limit_s=60) == 1
        descriptor = os.pidfd_open(short.pids["functions"])
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, ended.set)
        await ended.wait()
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        assert not short.pids
        assert short.counts["functions"].retired == 1
        assert await short.call("def f(): return 2", "f", {}, limit_s=60) == 2


def test_without_pandas_it_says_what_to_install(tmp_path: Path) -> None:
    """The gateway starts, functions work, and nobody loads numpy into it."""
    program = (
        "import asyncio, sys\nfrom pathlib import Path\nsys.modules['pandas'] = None\n"
        "from gateway.jail.analysis import Analysis, AnalysisOff\nfrom gateway.jail.table import Table\n"
        "async def main():\n"
        f"    async with Analysis(Path({str(tmp_path)!r})) as analysis:\n"
        "        assert await analysis.call('def f(): return 5', 'f', {}, limit_s=60) == 5\n"
        "        try: await analysis.analyze(Table((), 0), '1')\n"
        "        except AnalysisOff as error: print(error)\n"
        "asyncio.run(main())\n"
        "assert not {'numpy', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (
        "code cannot be run here: pandas not installed: pip install 'ambient-gateway[analysis]'"
    )


def test_the_gateway_loads_none_of_it() -> None:
    """Assistants' libraries are for the zygote: 60 MB that the gateway does not pay."""
    program = "import sys, gateway.app\nassert not {'numpy', 'pandas', 'matplotlib', 'PIL'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
