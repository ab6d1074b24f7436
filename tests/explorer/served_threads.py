"""Torch's threads while a small model's explorer is served and after, as JSON: `served_threads FOLDER`."""

import json
import os
import socket
import sys

import torch

from unbox import load
from unbox.errors import UnboxError
from unbox.explorer.interface import serve
from unbox.explorer.session import ExplorerSession

session, threads = ExplorerSession(load(sys.argv[1], device="cpu")), {}
torch.set_num_threads(3)
with socket.create_server(("127.0.0.1", 0)) as taken:
    try:
        serve(session, port=taken.getsockname()[1])
    except UnboxError:
        threads["refused"] = torch.get_num_threads()
app = serve(session, block=False)
threads["served"] = torch.get_num_threads()
app.close(verbose=False)
threads["closed"] = torch.get_num_threads()
print(json.dumps(threads), flush=True)
os._exit(0)  # not waiting for what Gradio leaves behind
