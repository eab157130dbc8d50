import torch
from axolotl.integrations.base import BasePlugin

class SummarizationPlugin(BasePlugin):
    def register(self, cfg):
        if torch.cuda.is_available(): return
        import ctypes,os
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        l=ctypes.CDLL("libc.so.6"); l.mallopt(-3,1<<30); l.mallopt(-1,2**31-1)
        for k in ("mlp","qkv","o","embedding"):
            cfg[f"lora_{k}_kernel"]=False
    def get_training_args(self, cfg):
        if torch.cuda.is_available(): return {}
        return {"use_cpu": True, "eval_on_start": False}
