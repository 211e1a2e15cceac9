#!/usr/bin/env python3
"""lacuna beside its peers: one process, one GPU, the same tensors, runs alternated.

    cargo build --release
    python3 bench/compare.py                  # dense causal and NSA selected
    python3 bench/compare.py dense --json

Needs an NVIDIA GPU and PyTorch. FlashAttention-2 and cuDNN come with PyTorch. nsa_ref, the Triton code in
Relaxed-System-Lab/Flash-Sparse-Attention, is used where the environment variable NSA_REF names a folder that `nsa_ref` can
be imported from. What is not there is said, not skipped in silence.

Times are medians of CUDA events; 256 MiB are written before every run, so that nothing is left in L2. Every output is first
checked on a smaller problem against float64. FLOPs of dense causal count the lower triangle; those of NSA selected count
every selected block whole.
"""
import argparse, ctypes, json, math, os, statistics, subprocess, sys

import torch

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WIDTH, BLOCK, PICKS = 128, 64, 16
# Measured ceilings of an H200: mma.sync in registers, L2 to multiprocessors, HBM read.
MMA, L2, HBM = 635e12, 8.9e12, 4.5e12


class Kernel:
    """A lacuna kernel, from `lacuna emit --json`, launched through the driver on PyTorch's stream."""

    cuda = None

    def __init__(self, lacuna, name, group, pick):
        capability = torch.cuda.get_device_capability()
        target = f"sm_{max(c for c in (80, 86, 89, 90, 120) if c <= capability[0] * 10 + capability[1])}"
        command = [lacuna, "emit", name, "--json", "--target", target, "--dim", str(WIDTH), "--group", str(group)]
        plan = json.loads(subprocess.run(command + (["--pick", pick] if pick else []), check=True, capture_output=True).stdout)
        self.plan, self.launch = plan, plan["launches"][0]
        if Kernel.cuda is None:
            Kernel.cuda = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        torch.zeros(1, device="cuda")
        module, self.function = ctypes.c_void_p(), ctypes.c_void_p()
        self.check(self.cuda.cuModuleLoadData(ctypes.byref(module), self.launch["ptx"].encode()))
        self.check(self.cuda.cuModuleGetFunction(ctypes.byref(self.function), module, self.launch["entry"].encode()))
        dynamic_shared = 8
        self.check(self.cuda.cuFuncSetAttribute(self.function, dynamic_shared, self.launch["shared_bytes"]))
        self.name = f"lacuna {name} ({', '.join(f'{k} {v}' for k, v in plan['pick'].items())})"

    @staticmethod
    def check(code):
        if code:
            raise RuntimeError(f"CUDA driver error {code}")

    def value(self, expr, symbols, scalars):
        if isinstance(expr, int):
            return expr
        (op, of), = expr.items()
        if op in ("symbol", "scalar"):
            return (symbols if op == "symbol" else scalars)[of]
        a, b = (self.value(e, symbols, scalars) for e in of)
        return {"add": a + b, "sub": a - b, "mul": a * b, "ceil_div": -(-a // b)}[op]

    def bind(self, tensors, **scalars):
        """A call that launches on these tensors."""
        scalars = {**self.plan["given"], **scalars}
        symbols = {}
        for spec in self.plan["tensors"]:
            for dim, extent in zip(spec["dims"], tensors[spec["name"]].shape):
                if symbols.setdefault(dim, extent) != extent or isinstance(dim, int) and dim != extent:
                    raise ValueError(f"{spec['name']}: {dim} is {extent}")
        args = []
        for arg in self.launch["args"]:
            if "pointer" in arg:
                args.append(ctypes.c_uint64(tensors[arg["pointer"]].data_ptr()))
            elif "stride" in arg:
                args.append(ctypes.c_uint64(tensors[arg["stride"]["tensor"]].stride(arg["stride"]["dim"])))
            elif "scalar" in arg:
                number = scalars[arg["scalar"]]
                args.append(ctypes.c_float(number) if isinstance(number, float) else ctypes.c_int32(number))
            else:
                args.append(ctypes.c_int32(self.value(arg["value"], symbols, scalars)))
        grid = [self.value(g, symbols, scalars) for g in self.launch["grid"]]
        pointers = (ctypes.c_void_p * len(args))(*(ctypes.cast(ctypes.pointer(a), ctypes.c_void_p) for a in args))

        def call():
            stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
            self.check(self.cuda.cuLaunchKernel(self.function, *grid, self.launch["threads"], 1, 1,
                                                self.launch["shared_bytes"], stream, pointers, None))
        call.kept = args, tensors
        return call


def normal(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def error(result, reference):
    """Largest difference over the RMS of the reference; infinite where the result is no number."""
    found = ((result.double() - reference).abs().max() / reference.pow(2).mean().sqrt()).item()
    return found if math.isfinite(found) else math.inf


def alternate(calls, rounds):
    """Median milliseconds of each call, all of them run in turn."""
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    times = {name: [] for name in calls}
    for name, call in calls.items():
        call()
    torch.cuda.synchronize()
    for _ in range(rounds):
        for name, call in calls.items():
            flush.zero_()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record(); call(); end.record()
            times[name].append((start, end))
        torch.cuda.synchronize()
    return {name: statistics.median(s.elapsed_time(e) for s, e in pairs) for name, pairs in times.items()}


def show(rows, title, times, ours, flops, floors):
    floor = max(floors.values())
    bound = max(floors, key=floors.get)
    print(f"\n{title}: {flops / 1e12:.2f} TFLOP; floors in ms: "
          + ", ".join(f"{name} {1e3 * t:.2f}" for name, t in floors.items()) + f"; bound by {bound}")
    for name, ms in sorted(times.items(), key=lambda item: item[1]):
        ratio = times[ours] / ms
        print(f"  {name:58s} {ms:9.3f} ms {flops / ms / 1e9:7.1f} TFLOP/s   lacuna takes {ratio:5.3f} of its time"
              + (f"; {floor * 1e3 / ms:.0%} of the floor's rate" if name == ours else ""))
        rows.append(dict(case=title, name=name, ms=ms, tflops=flops / ms / 1e9, lacuna_over_this=ratio))


def dense(options, rows):
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel
    kernel = Kernel(options.lacuna, "causal", 1, options.dense_pick)

    def tensors(batch, heads, length):
        q, k, v = (normal(batch * length, heads, WIDTH) for _ in range(3))
        cu = torch.arange(0, batch + 1, device="cuda", dtype=torch.int32) * length
        o = torch.full_like(q, math.nan)
        return dict(q=q, k=k, v=v, cu_seqlens=cu, o=o, lse=torch.full((batch * length, heads), math.nan, device="cuda"))

    def ours(t, length):
        return kernel.bind(t, max_seqlen=length, scale=WIDTH ** -0.5)

    def apart(x, batch):
        return x.view(batch, -1, x.shape[1], WIDTH).transpose(1, 2)

    t = tensors(2, 4, 1000)
    ours(t, 1000)()
    q, k, v = (apart(t[n], 2).double() for n in "qkv")
    scores = (q @ k.transpose(-1, -2) * WIDTH ** -0.5).masked_fill(~torch.ones(1000, 1000, device="cuda").tril().bool(), -math.inf)
    reference = scores.softmax(-1) @ v
    peer = F.scaled_dot_product_attention(*(apart(t[n], 2) for n in "qkv"), is_causal=True)
    print(f"dense causal against float64: lacuna {error(apart(t['o'], 2), reference):.1e}, "
          f"PyTorch {error(peer, reference):.1e}; LSE {(apart_lse(t['lse'], 2) - scores.logsumexp(-1)).abs().max():.1e}")
    for batch, heads, length in [(4, 16, 8192), (1, 16, 32768)]:
        t = tensors(batch, heads, length)
        apart_t = [apart(t[n], batch).contiguous() for n in "qkv"]

        def sdpa(backend):
            def call():
                with sdpa_kernel(backend):
                    F.scaled_dot_product_attention(*apart_t, is_causal=True)
            return call
        calls = {kernel.name: ours(t, length), "FlashAttention-2 (PyTorch)": sdpa(SDPBackend.FLASH_ATTENTION),
                 "cuDNN (PyTorch)": sdpa(SDPBackend.CUDNN_ATTENTION)}
        flops = 4.0 * batch * heads * length ** 2 * WIDTH / 2
        tile = kernel.plan["pick"]["rows"]
        once = 4 * batch * heads * length * WIDTH * 2
        again = batch * heads * (length / tile) * length / 2 * WIDTH * 2 * 2
        show(rows, f"dense causal forward, bf16, D {WIDTH}, batch {batch}, heads {heads}/{heads}, {length} tokens",
             alternate(calls, options.rounds), kernel.name, flops,
             {"mma.sync": flops / MMA, "L2": again / L2, "HBM": once / HBM})


def apart_lse(lse, batch):
    return lse.view(batch, -1, lse.shape[1]).transpose(1, 2).double()


def selection(tokens, heads, seed=1):
    """[tokens, heads, 16] int32: block 0, the token's own and the one before, and random ones of the past; -1 at the end."""
    generator = torch.Generator(device="cuda").manual_seed(seed)
    own = (torch.arange(tokens, device="cuda") // BLOCK)[:, None]
    block = torch.arange(-(-tokens // BLOCK), device="cuda")[None]
    picks = torch.empty(tokens, heads, PICKS, dtype=torch.int32, device="cuda")
    for head in range(heads):
        score = torch.rand(tokens, block.shape[1], device="cuda", generator=generator)
        score[(block == 0) | (block == own) | (block == own - 1)] = 2.0
        score.masked_fill_(block > own, -1.0)
        value, index = score.topk(min(PICKS, block.shape[1]), dim=-1)
        index = torch.where(value < 0, block.shape[1], index).sort(-1).values
        picks[:, head, :] = -1
        picks[:, head, :index.shape[1]] = torch.where(index == block.shape[1], -1, index).int()
    return picks


def selected(options, rows):
    heads, heads_kv = 64, 4
    group = heads // heads_kv
    kernel = Kernel(options.lacuna, "nsa-selected", group, options.selected_pick)
    try:
        if os.environ.get("NSA_REF"):
            sys.path.insert(0, os.environ["NSA_REF"])
        from nsa_ref.ops.topk_sparse_attention import _topk_sparse_attention_fwd as nsa_ref
    except ImportError as missing:
        nsa_ref = None
        print(f"\nnsa_ref is not there ({missing}): lacuna is timed alone")

    def tensors(tokens):
        q, k, v = normal(tokens, heads, WIDTH), normal(tokens, heads_kv, WIDTH), normal(tokens, heads_kv, WIDTH)
        cu = torch.tensor([0, tokens], device="cuda", dtype=torch.int32)
        lse = torch.full((tokens, heads), math.nan, device="cuda")
        return dict(q=q, k=k, v=v, picks=selection(tokens, heads_kv), cu_seqlens=cu, o=torch.full_like(q, math.nan), lse=lse)

    t = tensors(2048)
    kernel.bind(t, scale=WIDTH ** -0.5)()
    position = torch.arange(2048, device="cuda")
    reference = torch.empty(2048, heads, WIDTH, device="cuda", dtype=torch.float64)
    for head in range(heads_kv):
        seen = torch.zeros(2048, 2048 // BLOCK + 1, dtype=torch.bool, device="cuda")
        index = t["picks"][:, head].long()
        seen.scatter_(1, torch.where(index < 0, 2048 // BLOCK, index), True)
        seen = seen[:, :-1].repeat_interleave(BLOCK, 1) & (position[None] <= position[:, None])
        for h in range(head * group, (head + 1) * group):
            scores = (t["q"][:, h].double() @ t["k"][:, head].double().T * WIDTH ** -0.5).masked_fill(~seen, -math.inf)
            reference[:, h] = scores.softmax(-1) @ t["v"][:, head].double()
    print(f"\nNSA selected against float64: lacuna {error(t['o'], reference):.1e}")
    for tokens in (8192, 65536):
        t = tensors(tokens)
        calls = {kernel.name: kernel.bind(t, scale=WIDTH ** -0.5)}
        if nsa_ref:
            by_head = t["picks"].transpose(0, 1).contiguous()
            cu = t["cu_seqlens"]
            calls["nsa_ref (Triton)"] = lambda: nsa_ref(t["q"], t["k"], t["v"], by_head, BLOCK, cu, cu, tokens, tokens, WIDTH ** -0.5)
        blocks = (t["picks"] >= 0).sum().item()
        flops = 4.0 * WIDTH * group * BLOCK * blocks
        fetched = blocks * BLOCK * WIDTH * 2 * 2
        once = 2 * tokens * (heads + heads_kv) * WIDTH * 2
        show(rows, f"NSA selected forward, bf16, D {WIDTH}, heads {heads}/{heads_kv}, block {BLOCK}, n {PICKS}, {tokens} tokens, random selection",
             alternate(calls, options.rounds), kernel.name, flops,
             {"mma.sync": flops / MMA, "L2": fetched / L2, "HBM": once / HBM})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="dense|selected", help="which comparisons; all where none is named")
    parser.add_argument("--lacuna", default=os.path.join(ROOT, "target/release/lacuna"), help="the lacuna command")
    parser.add_argument("--dense-pick", default="", help="as for `lacuna emit causal --pick`")
    parser.add_argument("--selected-pick", default="", help="as for `lacuna emit nsa-selected --pick`")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="the figures as JSON, last")
    options = parser.parse_args()
    if unknown := set(options.what) - {"dense", "selected"}:
        parser.error(f"no comparison is called {', '.join(sorted(unknown))}; there are dense and selected")
    if not torch.cuda.is_available():
        sys.exit("error: PyTorch sees no GPU")
    torch.manual_seed(0)
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    rows = []
    for name, run in (("dense", dense), ("selected", selected)):
        if not options.what or name in options.what:
            run(options, rows)
    if options.json:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
