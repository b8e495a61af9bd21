"""Codecs at bitrates over recordings, in parallel and resumably: `codec sweep`.

    from codec.evaluation.sweep.run import sweep
    result = sweep("speech/", ["speech-16k", "opus"], "report/", bitrates=[1, 2, 4], metric_names=["pesq", "stoi"])
"""
