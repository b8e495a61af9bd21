"""Speech to tokens and back by ONNX Runtime alone, without torch: whole, then live, frame by frame.

    codec export speech-16k exported/
    python onnx_codec.py exported/ speech.flac whole.wav live.wav
"""

import json
import sys

import numpy as np
import onnxruntime
import soundfile

folder, source, whole, live = sys.argv[1:]
about = json.load(open(f"{folder}/codec.json"))
size, delay = about["frame_size"], about["decoder_delay"]
graphs = {name: onnxruntime.InferenceSession(f"{folder}/{name}") for name in about["files"]}
samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
if rate != about["sample_rate"]:
    sys.exit(f"{source} has {rate} Hz: resample it to {about['sample_rate']} first")
padded = np.pad(samples[:, 0], (0, max(-len(samples) % size, 2 * size - len(samples))))[None, None]  # whole frames, two or more
codes = graphs["encoder.onnx"].run(None, {"samples": padded})[0]  # (1, codebooks, frames)
audio = graphs["decoder.onnx"].run(None, {"codes": codes})[0]
soundfile.write(whole, audio[0, 0, : len(samples)], about["output_sample_rate"])


def step(name, states, **first):
    """One frame. The state is zeros at first, then what the step before gave."""
    inputs = about["files"][name]["inputs"]
    zeros = {key: np.zeros([1, *shape[1:]], about["files"][name]["types"][key]) for key, shape in inputs.items() if key not in first}
    output, *after = graphs[name].run(None, first | (states or zeros))
    return output, dict(zip(zeros, after))


encoder = decoder = None
frames = []
padded = np.pad(padded, ((0, 0), (0, 0), (0, -(-delay // size) * size)))  # silence pushes the last samples out
for start in range(0, padded.shape[2], size):
    codes, encoder = step("encoder_step.onnx", encoder, samples=padded[..., start : start + size])
    pcm, decoder = step("decoder_step.onnx", decoder, codes=codes)
    frames.append(pcm[0, 0])
soundfile.write(live, np.concatenate(frames)[delay : delay + len(samples)], about["output_sample_rate"])
