#!/usr/bin/env python3
"""lacuna beside its peers: one process, one GPU, the same tensors, runs alternated.

    cargo build --release
    python3 bench/compare.py                  # dense causal, masks, NSA selected
    python3 bench/compare.py dense masks --json

Needs an NVIDIA GPU and PyTorch. FlashAttention-2, cuDNN and FlexAttention come with PyTorch. nsa_ref and FSA, the Triton
code in Relaxed-System-Lab/Flash-Sparse-Attention, are used where the environment variable NSA_REF names a folder that
`nsa_ref` and `fsa` can be imported from. What is not there is said, not skipped in silence.

Times are medians of CUDA events; 256 MiB are written before every run, so that nothing is left in L2. Every output is first
checked on a smaller problem against float64. FLOPs of dense causal and of masks count the pairs that are seen; those of NSA
selected count every selected block whole. Masks of peers are made before they are timed, and what lacuna does to find its
blocks is in its time.
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

    def __init__(self, lacuna, name, *, group=1, width=WIDTH, pick="", options=()):
        capability = torch.cuda.get_device_capability()
        target = f"sm_{max(c for c in (80, 86, 89, 90, 120) if c <= capability[0] * 10 + capability[1])}"
        command = [lacuna, "emit", name, "--json", "--target", target, "--dim", str(width), "--group", str(group)]
        command += [*options, *(["--pick", pick] if pick else [])]
        self.plan = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        if Kernel.cuda is None:
            Kernel.cuda = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        torch.zeros(1, device="cuda")
        self.functions = []
        for launch in self.plan["launches"]:
            module, function = ctypes.c_void_p(), ctypes.c_void_p()
            self.check(self.cuda.cuModuleLoadData(ctypes.byref(module), launch["ptx"].encode()))
            self.check(self.cuda.cuModuleGetFunction(ctypes.byref(function), module, launch["entry"].encode()))
            dynamic_shared = 8
            self.check(self.cuda.cuFuncSetAttribute(function, dynamic_shared, launch["shared_bytes"]))
            self.functions.append(function)
        self.name = f"lacuna {name} ({', '.join(f'{k} {v}' for k, v in self.plan['pick'].items())})"

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
        if op == "ceil_div":
            return -(-a // b)
        return {"add": a + b, "sub": a - b, "mul": a * b, "min": min(a, b)}[op]

    def bind(self, tensors, **scalars):
        """A call that launches on these tensors."""
        scalars = {**self.plan["given"], **scalars}
        symbols = {}
        for spec in self.plan["tensors"]:
            for dim, extent in zip(spec["dims"], tensors[spec["name"]].shape):
                if symbols.setdefault(dim, extent) != extent or isinstance(dim, int) and dim != extent:
                    raise ValueError(f"{spec['name']}: {dim} is {extent}")
        workspace = torch.empty(self.value(self.plan["workspace_bytes"], symbols, scalars), dtype=torch.uint8, device="cuda")
        launches = []
        for launch, function in zip(self.plan["launches"], self.functions):
            args = [self.argument(arg, tensors, symbols, scalars, workspace) for arg in launch["args"]]
            grid = [self.value(g, symbols, scalars) for g in launch["grid"]]
            pointers = (ctypes.c_void_p * len(args))(*(ctypes.cast(ctypes.pointer(a), ctypes.c_void_p) for a in args))
            if all(grid):
                launches.append((function, grid, launch["threads"], launch["shared_bytes"], pointers, args))

        def call():
            stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
            for function, grid, threads, shared, pointers, _ in launches:
                self.check(self.cuda.cuLaunchKernel(function, *grid, threads, 1, 1, shared, stream, pointers, None))
        call.kept = launches, tensors, workspace
        return call

    def argument(self, arg, tensors, symbols, scalars, workspace):
        if "pointer" in arg:
            return ctypes.c_uint64(tensors[arg["pointer"]].data_ptr())
        if "stride" in arg:
            return ctypes.c_uint64(tensors[arg["stride"]["tensor"]].stride(arg["stride"]["dim"]))
        if "scalar" in arg:
            number = scalars[arg["scalar"]]
            return ctypes.c_float(number) if isinstance(number, float) else ctypes.c_int32(number)
        if "workspace_offset" in arg:
            return ctypes.c_uint64(workspace.data_ptr() + self.value(arg["workspace_offset"], symbols, scalars))
        value = self.value(arg["value"], symbols, scalars)
        return ctypes.c_uint64(value) if arg["type"] == "u64" else ctypes.c_int32(value)


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


def packed(batch, heads, length, width=WIDTH):
    """Documents of equal length, one behind the other, and where the result goes."""
    q, k, v = (normal(batch * length, heads, width) for _ in range(3))
    cu = torch.arange(0, batch + 1, device="cuda", dtype=torch.int32) * length
    lse = torch.full((batch * length, heads), math.nan, device="cuda")
    return dict(q=q, k=k, v=v, cu_seqlens=cu, o=torch.full_like(q, math.nan), lse=lse)


def apart(x, batch):
    """[tokens, heads, width] as [documents, heads, length, width]."""
    return x.view(batch, -1, *x.shape[1:]).transpose(1, 2)


def in_float64(t, batch, sees):
    """Output and LSE of equal documents under a mask of positions."""
    q, k, v = (apart(t[n], batch).double() for n in "qkv")
    position = torch.arange(q.shape[2], device="cuda")
    seen = sees(position[:, None], position[None])
    scores = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).masked_fill(~seen, -math.inf)
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


def dense(options, rows):
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel
    for width in (64, 128, 256):
        kernel = Kernel(options.lacuna, "causal", width=width, pick=options.dense_pick)
        scale = width ** -0.5
        t = packed(2, 4, 1000, width)
        kernel.bind(t, max_seqlen=1000, scale=scale)()
        reference, lse = in_float64(t, 2, lambda q, kv: kv <= q)
        peer = F.scaled_dot_product_attention(*(apart(t[n], 2) for n in "qkv"), is_causal=True)
        print(f"\ndense causal against float64, D {width}: lacuna {error(apart(t['o'], 2), reference):.1e}, "
              f"PyTorch {error(peer, reference):.1e}; LSE {(apart(t['lse'], 2) - lse).abs().max():.1e}")
        for batch, heads, length in [(4, 16, 8192), (1, 16, 32768)]:
            t = packed(batch, heads, length, width)
            apart_t = [apart(t[n], batch).contiguous() for n in "qkv"]

            def sdpa(backend):
                def call():
                    with sdpa_kernel(backend):
                        F.scaled_dot_product_attention(*apart_t, is_causal=True)
                return call
            calls = {kernel.name: kernel.bind(t, max_seqlen=length, scale=scale),
                     "FlashAttention-2 (PyTorch)": sdpa(SDPBackend.FLASH_ATTENTION),
                     "cuDNN (PyTorch)": sdpa(SDPBackend.CUDNN_ATTENTION)}
            flops = 4.0 * batch * heads * length ** 2 * width / 2
            tile = kernel.plan["pick"]["rows"]
            once = 4 * batch * heads * length * width * 2
            again = batch * heads * (length / tile) * length / 2 * width * 2 * 2
            show(rows, f"dense causal forward, bf16, D {width}, batch {batch}, heads {heads}/{heads}, {length} tokens",
                 alternate(calls, options.rounds), kernel.name, flops,
                 {"mma.sync": flops / MMA, "L2": again / L2, "HBM": once / HBM})


def masks(options, rows):
    """Masks beside FlexAttention with its block mask: a window, and packed documents."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    torch._dynamo.config.recompile_limit = 64
    flex, block_mask = torch.compile(flex_attention, dynamic=False), torch.compile(create_block_mask, dynamic=False)
    heads, tokens, scale = 16, 65536, WIDTH ** -0.5
    window, length = 1024, 4096

    def in_window(b, h, q, kv):
        return (kv <= q) & (q - kv < window)

    def in_document(b, h, q, kv):
        return (kv <= q) & (q // length == kv // length)
    pairs = {"window": window * tokens - window * (window - 1) / 2, "documents": tokens * (length + 1) / 2}
    for name, documents, predicate, given in [("window", 1, in_window, ["--window", str(window)]),
                                              ("documents", tokens // length, in_document, [])]:
        kernel = Kernel(options.lacuna, name, options=given, pick=options.mask_pick)
        t = packed(2, 4, 3000)
        kernel.bind(t, max_seqlen=3000, scale=scale)()
        reference, lse = in_float64(t, 2, lambda q, kv: predicate(0, 0, q, kv))
        print(f"\n{name} against float64: lacuna {error(apart(t['o'], 2), reference):.1e}; "
              f"LSE {(apart(t['lse'], 2) - lse).abs().max():.1e}")
        t = packed(documents, heads, tokens // documents)
        whole = [apart(t[n], 1).contiguous() for n in "qkv"]
        mask = block_mask(predicate, None, None, tokens, tokens, device="cuda")
        calls = {kernel.name: kernel.bind(t, max_seqlen=tokens // documents, scale=scale),
                 "FlexAttention (PyTorch)": lambda: flex(*whole, block_mask=mask)}
        calls["FlexAttention (PyTorch)"]()
        flops = 4.0 * heads * WIDTH * pairs[name]
        once = 4 * heads * tokens * WIDTH * 2
        show(rows, f"{name} forward, bf16, D {WIDTH}, heads {heads}/{heads}, {tokens} tokens",
             alternate(calls, options.rounds), kernel.name, flops, {"mma.sync": flops / MMA, "HBM": once / HBM})


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
    try:
        if os.environ.get("NSA_REF"):
            sys.path.insert(0, os.environ["NSA_REF"])
        from nsa_ref.ops.topk_sparse_attention import _topk_sparse_attention_fwd as nsa_ref
    except ImportError as missing:
        nsa_ref = None
        print(f"\nnsa_ref is not there ({missing}): lacuna is timed without it")
    try:
        from fsa.ops.FSA_topk_sparse_attention import _topk_sparse_attention_fwd_opt as fsa
    except ImportError as missing:
        fsa = None
        print(f"\nFSA is not there ({missing}): lacuna is timed without it")
    for heads, heads_kv in options.heads:
        selected_heads(options, rows, heads, heads_kv, nsa_ref, fsa)


def selected_heads(options, rows, heads, heads_kv, nsa_ref, fsa):
    group = heads // heads_kv
    scale = WIDTH ** -0.5
    kernel = Kernel(options.lacuna, "nsa-selected", group=group, pick=options.selected_pick)

    def tensors(tokens):
        q, k, v = normal(tokens, heads, WIDTH), normal(tokens, heads_kv, WIDTH), normal(tokens, heads_kv, WIDTH)
        cu = torch.tensor([0, tokens], device="cuda", dtype=torch.int32)
        lse = torch.full((tokens, heads), math.nan, device="cuda")
        return dict(q=q, k=k, v=v, picks=selection(tokens, heads_kv), cu_seqlens=cu, o=torch.full_like(q, math.nan), lse=lse)

    t = tensors(2048)
    kernel.bind(t, scale=scale, max_seqlen=2048)()
    position = torch.arange(2048, device="cuda")
    reference = torch.empty(2048, heads, WIDTH, device="cuda", dtype=torch.float64)
    for head in range(heads_kv):
        seen = torch.zeros(2048, 2048 // BLOCK + 1, dtype=torch.bool, device="cuda")
        index = t["picks"][:, head].long()
        seen.scatter_(1, torch.where(index < 0, 2048 // BLOCK, index), True)
        seen = seen[:, :-1].repeat_interleave(BLOCK, 1) & (position[None] <= position[:, None])
        for h in range(head * group, (head + 1) * group):
            scores = (t["q"][:, h].double() @ t["k"][:, head].double().T * scale).masked_fill(~seen, -math.inf)
            reference[:, h] = scores.softmax(-1) @ t["v"][:, head].double()
    print(f"\nNSA selected against float64, heads {heads}/{heads_kv}: lacuna {error(t['o'], reference):.1e}")
    for tokens in (8192, 65536):
        t = tensors(tokens)
        calls = {kernel.name: kernel.bind(t, scale=scale, max_seqlen=tokens)}
        by_head, cu = t["picks"].transpose(0, 1).contiguous(), t["cu_seqlens"]
        peers = {"nsa_ref (Triton)": nsa_ref and (lambda: nsa_ref(t["q"], t["k"], t["v"], by_head, BLOCK, cu, cu, tokens, tokens, scale)),
                 "FSA (Triton)": fsa and (lambda: fsa(t["q"], t["k"], t["v"], by_head, BLOCK, cu, cu, tokens, tokens, scale, causal=True))}
        for name, call in peers.items():
            try:
                if call:
                    call()
                    calls[name] = call
            except Exception as refused:
                print(f"\n{name} does not take heads {heads}/{heads_kv} ({type(refused).__name__}: {str(refused)[:80]})")
        blocks = (t["picks"] >= 0).sum().item()
        flops = 4.0 * WIDTH * group * BLOCK * blocks
        fetched = blocks * BLOCK * WIDTH * 2 * 2
        once = 2 * tokens * (heads + heads_kv) * WIDTH * 2
        show(rows, f"NSA selected forward, bf16, D {WIDTH}, heads {heads}/{heads_kv}, block {BLOCK}, n {PICKS}, {tokens} tokens, random selection",
             alternate(calls, options.rounds), kernel.name, flops,
             {"mma.sync": flops / MMA, "L2 (token by token)": fetched / L2, "HBM": once / HBM})
        del t, calls, peers
        torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="dense|masks|selected", help="which comparisons; all where none is named")
    parser.add_argument("--lacuna", default=os.path.join(ROOT, "target/release/lacuna"), help="the lacuna command")
    parser.add_argument("--dense-pick", default="", help="as for `lacuna emit causal --pick`")
    parser.add_argument("--mask-pick", default="", help="as for `lacuna emit window --pick`")
    parser.add_argument("--selected-pick", default="", help="as for `lacuna emit nsa-selected --pick`")
    parser.add_argument("--heads", default="64/4,32/8,16/16,48/16,56/8", help="query and KV heads of NSA selected",
                        type=lambda text: [tuple(map(int, pair.split("/"))) for pair in text.split(",")])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="the figures as JSON, last")
    options = parser.parse_args()
    comparisons = {"dense": dense, "masks": masks, "selected": selected}
    if unknown := set(options.what) - set(comparisons):
        parser.error(f"no comparison is called {', '.join(sorted(unknown))}; there are {', '.join(comparisons)}")
    if not torch.cuda.is_available():
        sys.exit("error: PyTorch sees no GPU")
    torch.manual_seed(0)
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    rows = []
    for name, run in comparisons.items():
        if not options.what or name in options.what:
            run(options, rows)
    if options.json:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
