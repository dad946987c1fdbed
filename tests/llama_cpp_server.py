"""llama.cpp's server on a port of this machine, from the package xllamacpp, and GGUF files without quantisation."""

import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

SERVER = """
import sys, signal, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_ctx, params.n_parallel = sys.argv[1], int(sys.argv[2]), 4096, 4
params.model_alias = {"smollm2"}
# By default keys and values are kept in float16.
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
signal.pause()
"""


def install(folder: Path) -> Path:
    """Install the server into a folder, for `PYTHONPATH`."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*pip, "xllamacpp==2026.10.11549"], check=True, timeout=300)
    return folder


@contextmanager
def llama_cpp(installed: Path, model: Path):
    """Serve a GGUF file under the name smollm2; gives the URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    with (installed / "log").open("wb") as log:
        words = [sys.executable, "-c", SERVER, str(model), str(port)]
        server = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(120):
            assert server.poll() is None, (installed / "log").read_text(errors="replace")[-2000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


def write_float32(source: Path, target: Path) -> Path:
    """Write a GGUF file with the same weights in float32."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize

    read = GGUFReader(source)
    written = GGUFWriter(target, read.fields["general.architecture"].contents())
    for field in read.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in ("general.architecture", "general.file_type"):
            kind = field.types[0]
            part = field.types[-1] if kind == GGUFValueType.ARRAY else None
            written.add_key_value(field.name, field.contents(), kind, sub_type=part)
    written.add_file_type(0)
    for tensor in read.tensors:
        written.add_tensor(tensor.name, dequantize(tensor.data, GGMLQuantizationType(tensor.tensor_type)))
    written.write_header_to_file()
    written.write_kv_data_to_file()
    written.write_tensors_to_file()
    written.close()
    return target
