"""A process that codes shards: tasks come on standard input and events go to standard output, both pickled.

It keeps nothing that would be missed: killed at any moment, it leaves a shard that is done or one that is not.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from typing import Any


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that has started this one, which ends it
    events = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no event

    def tell(kind: str, value: Any) -> None:
        try:
            pickle.dump((kind, value), events)
            events.flush()
        except OSError:
            os._exit(1)  # nobody listens: the run was killed

    try:
        _work(tell)
    except EOFError:
        return
    except (ValueError, OSError) as error:
        from codec.cli import describe

        tell("failed", describe(error))
    except BaseException:
        tell("broken", traceback.format_exc())


def _work(tell: Any) -> None:
    name, device, plan, folder = pickle.load(sys.stdin.buffer)
    import torch

    from codec import hub
    from codec.corpus.shard import write_shard
    from codec.heap import return_large, trim

    return_large()
    torch.set_num_threads(1)
    model = hub.load(name, device, without="decoder")
    model.check(plan.spec)
    tell("ready", None)
    while True:
        number, inputs, crashed = pickle.load(sys.stdin.buffer)
        write_shard(model, plan, folder, number, inputs, tell, crashed)
        trim()
        tell("finished", number)


if __name__ == "__main__":
    main()
