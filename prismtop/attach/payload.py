"""The fixed text around everything that runs inside a target.

A pending call that returns with an exception kills the target (SystemError; SystemExit exits it), so
nothing may escape. Nothing is bound in `__main__` either: PyRun_SimpleString runs there, hence one
expression with its own dictionary. Python 3.9 syntax, standard library only.
"""

from __future__ import annotations

import base64
import re

from prismtop.attach.handshake import Handshake

# A Python signal handler may run, and raise, while the payload runs (it is the main thread). Swallowing
# that would take a Ctrl-C or a SIGTERM away from the target, so a short-lived thread sends the signal once
# more, afterwards.
_ON_ERROR = """
def resend(number):
    time.sleep(0.1)
    os.kill(os.getpid(), number)
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
    import os
    fd = os.memfd_create(%(error)r)
    os.write(fd, text_of(error).encode('utf-8', 'replace'))
except BaseException:
    pass
if number is not None:
    import os, _thread, time
    _thread.start_new_thread(resend, (number,))
"""

# Compiled in the target's main thread: as short as can be; what is for the error case is a text of its own.
_RUNNER = """
begun = -1
try:
    import os
    try:
        begun = os.memfd_create(%(begun)r)
    except BaseException:
        pass
    if type(data) is tuple:
        memory = os.open('/proc/self/mem', 0)
        try:
            data = os.pread(memory, *data)
        finally:
            os.close(memory)
    names = {'__name__': '<prismtop>', '__builtins__': __builtins__, '__data__': data}
    exec(compile(source, '<prismtop>', 'exec'), names)
except BaseException as error:
    try:
        exec(failed, {'__builtins__': __builtins__, 'error': error})
    except BaseException:
        pass
if begun >= 0:
    os.close(begun)
"""


# How every source that is injected begins, and what that is overwritten with once the source has been read.
TEMPLATE_HEAD = "# prismtop\n"
READ_HEAD = "# has read\n"


DATA = "<prismtop data>"
"""Stands in a template for bytes that travel beside it; see `with_data`."""


def with_data(source: str, data: bytes, address: int | None = None) -> str:
    """The template with what its body finds as `__data__`: bytes.

    Args:
        source: a template, made for data or not.
        address: where they are in the target's memory: the target reads them there itself, through
            /proc/self/mem. As a text they have to be scanned, which takes 4 us per kilobyte on the engine's
            own thread. None puts them into the text, in base64 (then `__data__` is a text).
    """
    if address is None:
        return source.replace(DATA, ascii(base64.b64encode(data).decode()))
    return source.replace(DATA, f"({len(data)}, {address:#018x})")


def safe_template(body: str, nonce: str, data: str | None = "") -> str:
    """Wrap a payload so that it can neither raise into the target nor leave a name behind.

    The first act is a memfd `prismtop-go-<nonce>`, closed at the end, so that the injector knows that the
    payload is running before it is compiled. The body makes `prismtop-<nonce>` itself. If it fails, the
    traceback is in `prismtop-err-<nonce>`.

    Args:
        body: Python source of the payload; runs with a dictionary of its own as globals.
        nonce: letters, digits, underscore; makes the names unique.
        data: a text that the body finds as `__data__`. In the body itself, a long literal is parsed twice.
            None: bytes travel beside it, and `with_data` completes it.

    Raises:
        ValueError: a nonce with other characters, or a NUL in the body or the data.
    """
    if not re.fullmatch(r"[A-Za-z0-9_]{1,64}", nonce):
        raise ValueError(f"bad nonce {nonce!r}")
    if "\0" in body + (data or ""):
        raise ValueError("the payload contains a NUL character")
    names = Handshake.of(nonce)
    runner = _RUNNER % {"begun": names.begun_memfd}
    failed = _ON_ERROR % {"error": names.error_memfd}
    given = f"'source': {body!a}, 'failed': {failed!a}, 'data': {DATA if data is None else ascii(data)}"
    names_given = f"{{'__builtins__': __builtins__, {given}}}"
    return f"{TEMPLATE_HEAD}try:\n exec({runner!a}, {names_given})\nexcept:\n pass\n"
