"""The fixed text around everything that runs inside a target.

A pending call that returns with an exception kills the target (SystemError; SystemExit exits it), so
nothing may escape. Nothing is bound in `__main__` either: PyRun_SimpleString runs there, hence one
expression with its own dictionary. Python 3.9 syntax, standard library only.
"""

from __future__ import annotations

import re
import zlib
from binascii import b2a_base64

from prismtop.attach.handshake import Handshake

# A Python signal handler may run, and raise, while the payload runs (it is the main thread). Swallowing
# that would take a Ctrl-C or a SIGTERM away from the target, so a short-lived thread sends the signal once
# more, afterwards. Another closes the text of the error where the helper, without ptrace, cannot.
_ON_ERROR = """
def resend(number):
    time.sleep(0.1)
    os.kill(os.getpid(), number)
def let_go(fd):
    time.sleep(5)
    try:
        if %(error)r in os.readlink('/proc/self/fd/%%d' %% fd):
            os.close(fd)
    except OSError:
        pass
def raised_by_signal(error):
    frame = error.__traceback__
    while frame.tb_next is not None:
        frame = frame.tb_next
    frame = frame.tb_frame
    code = frame.f_code
    if code.co_filename[:9] != '<prismtop' and code.co_argcount >= 2:
        number = frame.f_locals.get(code.co_varnames[0])
        if isinstance(number, int):
            return int(number)
    return 2 if isinstance(error, KeyboardInterrupt) else None
def text_of(error):
    lines, trace = [], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        lines.append('%%s:%%s in %%s' %% (code.co_filename, trace.tb_lineno, code.co_name))
        trace = trace.tb_next
    lines = lines[:10] + lines[-10:] if len(lines) > 20 else lines
    return '\\n'.join(lines + ['%%s: %%s' %% (type(error).__name__, str(error)[:2000])])
number = raised_by_signal(error) if isinstance(error, (KeyboardInterrupt, SystemExit)) else None
try:
    import os, _thread, time
    text = text_of(error).encode('utf-8', 'replace')
    fd = os.memfd_create(%(error)r)
    os.write(fd, text)
    _thread.start_new_thread(let_go, (fd,))
except BaseException:
    pass
if number is not None:
    import os, _thread, time
    _thread.start_new_thread(resend, (number,))
"""

# How both ways of running a payload end: whatever it raised is told, and nothing escapes.
_END = """except BaseException as error:
    try:
        exec(failed, {'__builtins__': __builtins__, 'error': error})
    except BaseException:
        pass
if begun >= 0:
    os.close(begun)
"""

# Compiled in the target's main thread: as short as can be; what is for the error case is a text of its own.
_RUNNER = (
    """
begun = -1
try:
    import os
    try:
        begun = os.memfd_create(%(begun)r)
    except BaseException:
        pass
    names = {'__name__': '<prismtop>', '__builtins__': __builtins__, '__data__': data}
    exec(compile(source, '<prismtop>', 'exec'), names)
"""
    + _END
)


# How every source that is injected begins, and what that is overwritten with once the source has been read.
TEMPLATE_HEAD = "# prismtop\n"
READ_HEAD = "# has read\n"


ADDRESS = "<prismtop address>"
"""Stands in a direct template for the place of its data in the target's memory."""
OWN_MEMORY = "/proc/self/mem"
"""In the error of a target that may not read its own memory (not dumpable, and not root)."""


def at_address(source: str, address: int) -> str:
    """A direct template for data that are there."""
    return source.replace(ADDRESS, f"{address:#018x}")


# What the target compiles itself costs it more than anything else: one short expression that binds no name.
_COMPILED = """try:
 exec(__import__('marshal').loads(%(code)s)
  if __import__('sys').modules['_frozen_importlib_external'].MAGIC_NUMBER == %(magic)r
  else "raise RuntimeError('magic: compiled for another Python')",
  {'__builtins__': __builtins__, %(rest)s, 'begun': %(begun)a, 'failed': %(failed)a})
except:
 exec(%(failed)a, {'__builtins__': __builtins__, 'error': __import__('sys').exc_info()[1]})
"""
_IN_MEMORY = """(lambda f: [f.seek(%(at)s), f.read(%(first)d), f.close()][1])(
  open('/proc/self/mem', 'rb', 0))"""
FIRST = """
once = [1]
def given():
    if text:
        from binascii import a2b_base64
        from zlib import decompress
        return decompress(a2b_base64(text))
    with open('/proc/self/mem', 'rb', 0) as memory:
        memory.seek(at)
        return memory.read(size)
def build(pause, threaded):
    try:
        once.pop()
    except IndexError:
        return
    try:
        data = given()
        core, config, index, builders = loads(data)
        pause(0.001)
        core = loads(core)
        names = {'__name__': '_prismtop_probe', 'DATA': data, 'INDEX': index, 'PAUSE': threaded and pause}
        pause(0.001)
        exec(core, names)
        pause(0.001)
        names['start'](config, builders)
    except BaseException as error:
        tell(error)
    if begun >= 0:
        os.close(begun)
def tell(error):
    try:
        exec(failed, {'__builtins__': __builtins__, 'error': error})
    except BaseException:
        pass
try:
    import os
    try:
        begun = os.memfd_create(begun)
    except BaseException:
        begun = -1
    from marshal import loads
    from time import sleep
    try:
        from _thread import start_new_thread
        start_new_thread(build, (sleep, True))
    except (ImportError, RuntimeError):
        build(int, None)
except BaseException as error:
    tell(error)
"""
"""Source of what a template of compiled code runs; it reads the rest, see `prismtop.sources.payload`.

The probe takes 1 to 1.5 ms to build with cold caches. A thread of its own does that in pieces, between which
it gives the interpreter back, so that the engine's loop is held up by no more than the longest of them; where
no thread can be started, it is done at once. A Python signal handler, which runs on the main thread, cannot
raise into that thread.
"""


def direct_template(nonce: str, magic: bytes, first: int, size: int) -> str:
    """A template for data that begin with marshalled code (`FIRST`), which the target takes from its memory.

    Args:
        magic: of the Python that the code was compiled for.
        first, size: bytes of that code, and of what comes behind it.
    """
    code = _IN_MEMORY % {"at": ADDRESS, "first": first}
    return _compiled(nonce, magic, code, f"'text': '', 'at': {ADDRESS} + {first}, 'size': {size}")


def text_template(nonce: str, magic: bytes, first: bytes, data: bytes) -> str:
    """The same with the data in it, for a way in that takes a text and no bytes. Every kilobyte of a text is
    scanned on the main thread, hence compressed; the thread that builds the probe unpacks them.
    """
    packed = b2a_base64(zlib.compress(data, 9), newline=False)
    code = f"__import__('binascii').a2b_base64({b2a_base64(first, newline=False)!r})"
    return _compiled(nonce, magic, code, f"'text': {packed!r}")


def _compiled(nonce: str, magic: bytes, code: str, rest: str) -> str:
    """Expressions of `FIRST`, marshalled, and of what it finds as its globals."""
    names = Handshake.of(nonce)
    failed = _ON_ERROR % {"error": names.error_memfd}
    given = {"code": code, "magic": magic, "rest": rest, "begun": names.begun_memfd, "failed": failed}
    return TEMPLATE_HEAD + _COMPILED % given


def safe_template(body: str, nonce: str, data: str = "") -> str:
    """Wrap a payload so that it can neither raise into the target nor leave a name behind.

    The first act is a memfd `prismtop-go-<nonce>`, closed at the end, so that the injector knows that the
    payload is running before it is compiled. The body makes `prismtop-<nonce>` itself. If it fails, the
    traceback is in `prismtop-err-<nonce>`.

    Args:
        body: Python source of the payload; runs with a dictionary of its own as globals.
        nonce: letters, digits, underscore; makes the names unique.
        data: a text that the body finds as `__data__`. In the body itself, a long literal is parsed twice.

    Raises:
        ValueError: a nonce with other characters, or a NUL in the body or the data.
    """
    if not re.fullmatch(r"[A-Za-z0-9_]{1,64}", nonce):
        raise ValueError(f"bad nonce {nonce!r}")
    if "\0" in body + data:
        raise ValueError("the payload contains a NUL character")
    names = Handshake.of(nonce)
    runner = _RUNNER % {"begun": names.begun_memfd}
    failed = _ON_ERROR % {"error": names.error_memfd}
    given = f"'source': {body!a}, 'failed': {failed!a}, 'data': {data!a}"
    names_given = f"{{'__builtins__': __builtins__, {given}}}"
    return f"{TEMPLATE_HEAD}try:\n exec({runner!a}, {names_given})\nexcept:\n pass\n"
