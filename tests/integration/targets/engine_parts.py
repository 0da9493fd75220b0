"""The hooked half of `engine_loop.py`: a scheduler and a runner like those of a real engine. Python 3.9 syntax."""

import functools
import time


class Plan:
    """What one step does."""

    def __init__(self, number, tokens):
        self.number = number
        self.tokens = tokens


def timed(function):
    """A decorator as engines have them; it sets __wrapped__."""

    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)

    return inner


def opaque(function):
    """A decorator that hides what it decorates."""

    def inner(*args, **kwargs):
        return function(*args, **kwargs)

    return inner


class Scheduler:
    """Decides what the next step does and takes its results."""

    def __init__(self):
        self.steps = 0
        self.running = ["request-a", "request-b"]

    def schedule(self):
        tokens = {name: 1 + 15 * (self.steps % 50 == 0) for name in self.running}
        return Plan(self.steps, tokens)

    def update(self, plan, output):
        self.steps += 1
        return len(output)


class Runner:
    """Carries a step out."""

    def __init__(self, wait):
        self.wait = wait

    def execute(self, plan):
        inputs = self.prepare(plan)
        self.wait()
        self.hidden(inputs)
        return Runner.sample(inputs)

    @timed
    def prepare(self, plan):
        return list(plan.tokens)

    @opaque
    def hidden(self, inputs):
        return inputs

    @staticmethod
    def sample(inputs):
        return [(name, time.monotonic_ns() & 0xFF) for name in inputs]


HOOKED = (
    (Scheduler, "schedule"),
    (Scheduler, "update"),
    (Runner, "execute"),
    (Runner, "prepare"),
    (Runner, "hidden"),
    (Runner, "sample"),
)
