"""The attacks that a zygote tries on its own jail before it takes a question: in a real child, by the same way as an
assistant's code. One success, or one attack that was not tried, and the feature is off."""

import json
import struct
from typing import Any

from gateway.jail import frames

CODE = """
import ctypes, errno, mmap, os, resource, signal, socket

libc = ctypes.CDLL(None, use_errno=True)


def _list_files(): os.listdir("/")
def _look_at_a_file(): os.stat("/")
def _open_a_file(): os.open("/dev/null", os.O_RDONLY)
def _open_past_libc_wrappers():
    if libc.open(b"/dev/null", 0) < 0: raise OSError
def _make_a_file(): os.mkdir("/dev/shm/jail-probe"), os.rmdir("/dev/shm/jail-probe")
def _make_a_file_in_memory(): os.memfd_create("x")
def _open_a_socket(): socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def _open_a_local_socket(): socket.socketpair()
def _fork():
    if os.fork() == 0: os._exit(0)
def _start_a_thread():
    import _thread
    _thread.start_new_thread(int, ())
def _run_a_program():
    try: os.execv("/nowhere", ["x"])
    except FileNotFoundError: pass
def _signal_others(): os.kill(os.getppid(), 0)
def _read_others_memory():
    place = ctypes.create_string_buffer(16)
    if libc.process_vm_readv(os.getppid(), place, 0, place, 0, 0) < 0: raise OSError
def _trace_others():
    if libc.ptrace(16, os.getppid(), 0, 0) < 0 and ctypes.get_errno() != errno.ESRCH: raise OSError
def _make_code(): mmap.mmap(-1, 4096, prot=7)
def _set_limits():
    try: resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except ValueError: raise OSError
def _take_too_much_memory():
    try: bytearray(TOO_MUCH)
    except MemoryError: raise OSError
def _be_root():
    if os.geteuid() != 0: raise OSError
def _leave_the_namespace():
    if libc.unshare(0x10000000) < 0: raise OSError
def _find_open_files():
    found = []
    for each in range(256):
        try: os.lseek(each, 0, 1)
        except OSError as error:
            if error.errno == errno.EBADF: continue
        found.append(each)
    if found == OURS: raise OSError
    raise RuntimeError(str(found))


ATTACKS = {name[1:].replace("_", " "): value for name, value in list(globals().items())
           if name.startswith("_") and not name.startswith("__")}


def attack(too_much, ours):
    global TOO_MUCH, OURS
    TOO_MUCH, OURS = too_much, ours
    held, broken = [], []
    for name, one in ATTACKS.items():
        try: one()
        except OSError: held.append(name)
        except Exception as error:
            if type(error) is RuntimeError and "thread" in str(error): held.append(name)
            else: broken.append(f"{name} ({type(error).__name__}: {error})")
        else: broken.append(name)
    return {"held": held, "broken": broken}
"""
ATTACKS = 20
"""In CODE; fewer that held are a broken probe."""


def verdict(seen: dict[str, Any], text: bytes) -> str:
    """What the jail lets through, or that the probe itself failed, as a line; "" when it holds."""
    if seen["end"] != "done" or seen["status"] != 0:
        return f"the jail could not be tried: its child ended with {seen['end']}, {seen['status']}"
    try:
        text_bytes, _ = frames.sizes(text[: frames.HEAD.size], len(text))
        found = json.loads(text[frames.HEAD.size : frames.HEAD.size + text_bytes])["result"]
        held, broken = found["held"], found["broken"]
    except (ValueError, KeyError, TypeError, struct.error) as error:
        return f"the jail could not be tried: {type(error).__name__} in its child's answer"
    if broken:
        return f"the jail does not hold; code could: {', '.join(map(str, broken))}"
    if len(held) != ATTACKS:
        return f"the jail could not be tried: {len(held)} of {ATTACKS} attacks were made"
    return ""
