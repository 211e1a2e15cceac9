#!/usr/bin/env python3
"""lacuna beside its peers: one process, one GPU, the same tensors, runs alternated.

    cargo build --release
    python3 bench/compare.py                  # dense causal, masks, NSA selected, MoBA
    python3 bench/compare.py dense masks --json
    python3 bench/compare.py dense --targets sm_90,sm_90a
    python3 bench/compare.py dense --peers cuDNN
    python3 bench/compare.py moba --most-tokens 131072

Needs an NVIDIA GPU and PyTorch. FlashAttention-2, cuDNN and FlexAttention come with PyTorch. nsa_ref and FSA, the Triton
code in Relaxed-System-Lab/Flash-Sparse-Attention, are used where the environment variable NSA_REF names a folder that
`nsa_ref` and `fsa` can be imported from. MoBA's peers, fla's `parallel_moba` and MoonshotAI's `moba_efficient.py`, are used
where MOBA_REF names folders, as PATH does, that `fla` can be imported from and that `moba_efficient.py` or
`moba/moba_efficient.py` lies in; both call FlashAttention-2, for which a `fa_shim.py` in one of these folders may stand in
through PyTorch's own. What is not there is said, not skipped in silence.

Times are medians of CUDA events; 256 MiB are written before every run, so that nothing is left in L2. Every output is first
checked on a smaller problem against float64. FLOPs of dense causal and of masks count the pairs that are seen; those of NSA
selected count every selected block whole; those of MoBA the pairs that are seen, and its floor the gate's products too. Masks
of peers are made before they are timed, and what lacuna does to find its blocks is in its time.
"""
import argparse, ctypes, json, math, os, random, statistics, subprocess, sys

import torch

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WIDTH, BLOCK, PICKS = 128, 64, 16
# Measured ceilings of an H200: mma.sync in registers, L2 to multiprocessors, HBM read.
MMA, L2, HBM = 635e12, 8.9e12, 4.5e12
# The best of its tensor cores in a burst, and a copy.
BURST, COPY = 790e12, 4.3e12
# Documents, heads, tokens of a document, keys of a block, top-k: FlashMoBA's setting (arXiv 2511.11571), then larger blocks.
MOBA = [(2, 16, tokens, 128, 8) for tokens in (8192, 32768, 65536, 131072, 524288)]
MOBA += [(1, 16, 32768, 2048, 3), (1, 16, 131072, 2048, 3), (1, 4, 1048576, 16384, 3)]


# Kernel, width, documents, query and KV heads, tokens of a document: causal at D 128 as peers publish it, other widths, no mask,
# and 16k tokens in short documents.
DENSE = [("causal", 128, *shape) for shape in
         [(4, 16, 16, 8192), (1, 16, 16, 32768), (1, 64, 4, 32768), (1, 64, 4, 65536), (1, 8, 8, 131072)]]
DENSE += [("causal", width, *shape) for width in (64, 256) for shape in [(4, 16, 16, 8192), (1, 16, 16, 32768)]]
DENSE += [("causal", (192, 128), 4, 16, 16, 8192)]
DENSE += [("full", width, *shape) for width in (64, 128, 256) for shape in [(4, 16, 16, 8192), (1, 16, 16, 32768)]]
DENSE += [("causal", 128, 16384 // length, 16, 16, length) for length in (512, 1024, 2048, 4096)]
# Picks that take less time than the default, by kernel, width and tokens of a document, from `lacuna tune`. Where a tile has few
# blocks, the next tile's Q comes while this one's is in use. Where it has many, warpgroups need no turns; and where it has 256 of
# them, all whole, the card is at its power, and 192 rows fetch K and V less often.
SHORT, LONG, TALL = "stages=2,overlap=2", "turns=1", "rows=192,kv=80,stages=2,overlap=2,turns=1"
TUNED = {("causal", 128, 512): SHORT, ("causal", 128, 1024): SHORT, ("full", 128, 32768): TALL,
         **{("causal", 128, length): LONG for length in (8192, 32768, 65536, 131072)},
         **{shape: LONG + ",persist=3" for shape in [("full", 128, 8192), ("full", 256, 8192), ("full", 256, 32768)]}}


class Kernel:
    """A lacuna kernel, from `lacuna emit --json`, launched through the driver on PyTorch's stream."""

    cuda = None

    def __init__(self, lacuna, name, *, group=1, width=WIDTH, dv=None, pick="", options=(), target=None):
        target = target or highest_target()
        self.rate = BURST if target.endswith("a") else MMA
        command = [lacuna, "emit", name, "--json", "--target", target, "--dim", str(width), "--group", str(group)]
        command += [*options, *(["--dv", str(dv)] if dv else []), *(["--pick", pick] if pick else [])]
        self.plan = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        if Kernel.cuda is None:
            Kernel.cuda = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        torch.zeros(1, device="cuda")
        self.functions, modules = [], {}
        for launch in self.plan["launches"]:
            function = ctypes.c_void_p()
            # Chunks launch the same text again.
            if (module := modules.get(launch["ptx"])) is None:
                module = modules[launch["ptx"]] = ctypes.c_void_p()
                self.check(self.cuda.cuModuleLoadData(ctypes.byref(module), launch["ptx"].encode()))
            self.check(self.cuda.cuModuleGetFunction(ctypes.byref(function), module, launch["entry"].encode()))
            dynamic_shared = 8
            self.check(self.cuda.cuFuncSetAttribute(function, dynamic_shared, launch["shared_bytes"]))
            self.functions.append(function)
        self.name = f"lacuna {name}, {target} ({', '.join(f'{k} {v}' for k, v in self.plan['pick'].items())})"

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
        return {"add": a + b, "sub": a - b, "mul": a * b, "min": min(a, b), "max": max(a, b)}[op]

    def bind(self, tensors, **scalars):
        """A call that launches on these tensors."""
        scalars = {**self.plan["given"], **scalars}
        symbols = {"multiprocessors": torch.cuda.get_device_properties("cuda").multi_processor_count}
        for spec in self.plan["tensors"]:
            for dim, extent in zip(spec["dims"], tensors[spec["name"]].shape):
                if symbols.setdefault(dim, extent) != extent or isinstance(dim, int) and dim != extent:
                    raise ValueError(f"{spec['name']}: {dim} is {extent}")
        workspace = torch.empty(self.value(self.plan["workspace_bytes"], symbols, scalars), dtype=torch.uint8, device="cuda")
        counter, launches = torch.zeros(1, dtype=torch.int32, device="cuda"), []
        for launch, function in zip(self.plan["launches"], self.functions):
            args = [self.argument(arg, tensors, symbols, scalars, workspace, counter) for arg in launch["args"]]
            grid = [self.value(g, symbols, scalars) for g in launch["grid"]]
            pointers = (ctypes.c_void_p * len(args))(*(ctypes.cast(ctypes.pointer(a), ctypes.c_void_p) for a in args))
            if all(grid):
                launches.append((launch["entry"], function, grid, launch["threads"], launch["shared_bytes"], pointers, args))

        def call(after=lambda entry: None):
            stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
            for entry, function, grid, threads, shared, pointers, _ in launches:
                self.check(self.cuda.cuLaunchKernel(function, *grid, threads, 1, 1, shared, stream, pointers, None))
                after(entry)
        call.kept = launches, tensors, workspace, counter
        call.workspace = workspace.numel()
        return call

    def argument(self, arg, tensors, symbols, scalars, workspace, counter):
        if "pointer" in arg:
            return ctypes.c_uint64(tensors[arg["pointer"]].data_ptr())
        if "stride" in arg:
            return ctypes.c_uint64(tensors[arg["stride"]["tensor"]].stride(arg["stride"]["dim"]))
        if "scalar" in arg:
            number = scalars[arg["scalar"]]
            return ctypes.c_float(number) if isinstance(number, float) else ctypes.c_int32(number)
        if "tensor_map" in arg:
            return self.tensor_map(arg["tensor_map"], tensors, symbols, scalars, workspace)
        if "workspace_offset" in arg:
            return ctypes.c_uint64(workspace.data_ptr() + self.value(arg["workspace_offset"], symbols, scalars))
        if "counter" in arg:
            return ctypes.c_uint64(counter.data_ptr())
        value = self.value(arg["value"], symbols, scalars)
        return ctypes.c_uint64(value) if arg["type"] == "u64" else ctypes.c_int32(value)

    def tensor_map(self, spec, tensors, symbols, scalars, workspace):
        """The 128 bytes of a tensor map, 64-aligned, as the driver makes them."""
        elem, size = {"f16": (6, 2), "f32": (7, 4), "bf16": (9, 2), "i32": (3, 4)}[spec["dtype"]]
        base = spec["base"]
        address = tensors[base["tensor"]].data_ptr() if "tensor" in base else (
            workspace.data_ptr() + self.value(base["workspace_offset"], symbols, scalars))
        extents = [self.value(extent, symbols, scalars) for extent in spec["extents"]]
        strides = []
        for stride, extent in zip(spec["strides"], extents[1:]):
            (kind, of), = stride.items()
            elements = self.value(of, symbols, scalars) if kind == "elements" else tensors[of["tensor"]].stride(of["dim"])
            elements = (1 << 34) - elements if kind == "wrap_less" else elements
            # What is never followed may be anything.
            strides.append(16 if extent == 1 else elements * size)
        rank = len(extents)
        room = bytearray(128 + 64)
        start = ctypes.addressof(ctypes.c_char.from_buffer(room))
        encoded = (ctypes.c_uint64 * 16).from_buffer(room, -start % 64)
        self.check(self.cuda.cuTensorMapEncodeTiled(
            ctypes.byref(encoded), elem, rank, ctypes.c_void_p(address), (ctypes.c_uint64 * rank)(*extents),
            (ctypes.c_uint64 * max(rank - 1, 1))(*strides), (ctypes.c_uint32 * rank)(*spec["tile"]),
            (ctypes.c_uint32 * rank)(*[1] * rank), 0, [0, 32, 64, 128].index(spec["swizzle_bytes"]),
            [0, 64, 128, 256].index(spec["promotion_bytes"]), 0))
        return encoded


def highest_target():
    """The highest target that this GPU runs: of the mma.sync family, or sm_90a."""
    capability = torch.cuda.get_device_capability()
    if capability == (9, 0):
        return "sm_90a"
    return f"sm_{max(c for c in (80, 86, 89, 90, 120) if c <= capability[0] * 10 + capability[1])}"


def for_targets(chosen, name, *, pick, **given):
    """A kernel for each target that is compared. The last one is the one whose ratios are shown, and that has the pick."""
    targets = chosen.targets.split(",") if chosen.targets else [highest_target()]
    picks = [""] * (len(targets) - 1) + [pick]
    return [Kernel(chosen.lacuna, name, target=target, pick=pick, **given) for target, pick in zip(targets, picks)]


def normal(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def error(result, reference):
    """Largest difference over the RMS of the reference; infinite where the result is no number."""
    found = ((result.double() - reference).abs().max() / reference.pow(2).mean().sqrt()).item()
    return found if math.isfinite(found) else math.inf


def alternate(calls, rounds):
    """Median milliseconds of each call, all of them run in turn, each round in another order: what follows a kernel that takes
    less power finds a higher clock."""
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    times = {name: [] for name in calls}
    for name, call in calls.items():
        call()
    torch.cuda.synchronize()
    order, draw = list(calls.items()), random.Random(0)
    for _ in range(rounds):
        draw.shuffle(order)
        for name, call in order:
            flush.zero_()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record(); call(); end.record()
            times[name].append((start, end))
        torch.cuda.synchronize()
    return {name: statistics.median(s.elapsed_time(e) for s, e in pairs) for name, pairs in times.items()}


def by_launch(call, rounds):
    """Median milliseconds of each launch of a lacuna call, those of one entry added up."""
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    times = {}
    for _ in range(rounds):
        flush.zero_()
        marks = [("", torch.cuda.Event(enable_timing=True))]
        marks[0][1].record()

        def mark(entry):
            marks.append((entry, torch.cuda.Event(enable_timing=True)))
            marks[-1][1].record()
        call(mark)
        torch.cuda.synchronize()
        sums = {}
        for (_, start), (entry, end) in zip(marks, marks[1:]):
            sums[entry] = sums.get(entry, 0.0) + start.elapsed_time(end)
        for entry, ms in sums.items():
            times.setdefault(entry, []).append(ms)
    return {entry: statistics.median(all) for entry, all in times.items()}


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


def packed(batch, heads, length, width=WIDTH, heads_kv=None, dv=None):
    """Documents of equal length, one behind the other, and where the result goes. Values are `dv` wide, or as wide as keys."""
    heads_kv, dv = heads_kv or heads, dv or width
    q, k, v = (normal(batch * length, *shape) for shape in ((heads, width), (heads_kv, width), (heads_kv, dv)))
    cu = torch.arange(0, batch + 1, device="cuda", dtype=torch.int32) * length
    lse = torch.full((batch * length, heads), math.nan, device="cuda")
    return dict(q=q, k=k, v=v, cu_seqlens=cu, o=torch.full_like(q[..., :dv], math.nan), lse=lse)


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
    """Causal and full attention beside cuDNN and FlashAttention-2. These get keys and values repeated for each head of a group,
    which is not timed."""
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel
    made = {}

    def kernels(*which):
        if which not in made:
            name, width, dv, group, pick = which
            made[which] = for_targets(options, name, width=width, dv=dv, group=group, pick=pick)
            dense_check(made[which], name, width, dv, group)
        return made[which]
    for name, width, batch, heads, heads_kv, length in DENSE:
        width, dv = width if isinstance(width, tuple) else (width, width)
        group, scale = heads // heads_kv, width ** -0.5
        tuned = TUNED.get((name, width, length), "") if width == dv else ""
        ours = kernels(name, width, dv, group, options.dense_pick or tuned)
        t = packed(batch, heads, length, width, heads_kv, dv)
        apart_t = [apart(t[n], batch) for n in "qkv"]
        apart_t = [x.repeat_interleave(heads // x.shape[1], 1).contiguous() for x in apart_t]

        def sdpa(backend, causal=name == "causal", apart_t=apart_t):
            def call():
                with sdpa_kernel(backend):
                    F.scaled_dot_product_attention(*apart_t, is_causal=causal)
            return call
        calls = {kernel.name: kernel.bind(t, max_seqlen=length, scale=scale) for kernel in ours}
        peers = [("FlashAttention-2", SDPBackend.FLASH_ATTENTION), ("cuDNN", SDPBackend.CUDNN_ATTENTION)]
        for peer, backend in [peer for peer in peers if not options.peers or peer[0] in options.peers.split(",")]:
            try:
                call = sdpa(backend)
                call()
                calls[f"{peer} (PyTorch)"] = call
            except Exception as refused:
                print(f"\n{peer} does not take D {width}, {length} tokens ({type(refused).__name__}: {str(refused)[:80]})")
        share = 2 if name == "causal" else 1
        flops = 2.0 * batch * heads * length ** 2 * (width + dv) / share
        once = batch * (heads + heads_kv) * length * (width + dv) * 2
        again = batch * heads * (length / ours[-1].plan["pick"]["rows"]) * length / share * (width + dv) * 2
        wide = str(width) if width == dv else f"{width}/{dv}"
        show(rows, f"dense {name} forward, bf16, D {wide}, batch {batch}, heads {heads}/{heads_kv}, {length} tokens",
             alternate(calls, options.rounds), ours[-1].name, flops,
             {"products": flops / ours[-1].rate, "L2": again / L2, "HBM": once / HBM})
        del t, apart_t, calls
        torch.cuda.empty_cache()


def dense_check(kernels, name, width, dv, group):
    """Each of them against float64 on a smaller problem, beside PyTorch."""
    import torch.nn.functional as F
    t = packed(2, 2 * group, 1000, width, 2, dv)
    q, k, v = (apart(t[n], 2) for n in "qkv")
    k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    whole = dict(q=t["q"], k=k.transpose(1, 2).flatten(0, 1), v=v.transpose(1, 2).flatten(0, 1))
    reference, lse = in_float64(whole, 2, lambda q, kv: kv <= q if name == "causal" else kv >= 0)
    peer = F.scaled_dot_product_attention(q, k, v, is_causal=name == "causal")
    print(f"\ndense {name} against float64, D {width} and {dv}, group {group}: PyTorch {error(peer, reference):.1e}")
    for kernel in kernels:
        t["o"].fill_(math.nan)
        kernel.bind(t, max_seqlen=1000, scale=width ** -0.5)()
        print(f"  {kernel.name} {error(apart(t['o'], 2), reference):.1e}; LSE {(apart(t['lse'], 2) - lse).abs().max():.1e}")


def masks(options, rows):
    """Masks beside FlexAttention with its block mask: a window, and packed documents."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    torch._dynamo.config.recompile_limit = 64
    flex, block_mask = torch.compile(flex_attention, dynamic=False), torch.compile(create_block_mask, dynamic=False)
    heads, tokens, scale = 16, 65536, WIDTH ** -0.5
    length = 4096

    def within(window):
        def in_window(b, h, q, kv):
            return (kv <= q) & (q - kv < window)
        return in_window

    def in_document(b, h, q, kv):
        return (kv <= q) & (q // length == kv // length)
    cases = [("window", 1, within(window), ["--window", str(window)], window * tokens - window * (window - 1) / 2, f" {window}")
             for window in (1024, 4096)]
    cases.append(("documents", tokens // length, in_document, [], tokens * (length + 1) / 2, f" of {length}"))
    for name, documents, predicate, given, pairs, what in cases:
        ours = for_targets(options, name, options=given, pick=options.mask_pick)
        t = packed(2, 4, 3000)
        reference, lse = in_float64(t, 2, lambda q, kv: predicate(0, 0, q, kv))
        for kernel in ours:
            t["o"].fill_(math.nan)
            kernel.bind(t, max_seqlen=3000, scale=scale)()
            print(f"\n{name} against float64: {kernel.name} {error(apart(t['o'], 2), reference):.1e}; "
                  f"LSE {(apart(t['lse'], 2) - lse).abs().max():.1e}")
        t = packed(documents, heads, tokens // documents)
        whole = [apart(t[n], 1).contiguous() for n in "qkv"]
        mask = block_mask(predicate, None, None, tokens, tokens, device="cuda")
        calls = {kernel.name: kernel.bind(t, max_seqlen=tokens // documents, scale=scale) for kernel in ours}
        calls["FlexAttention (PyTorch)"] = lambda: flex(*whole, block_mask=mask)
        calls["FlexAttention (PyTorch)"]()
        flops = 4.0 * heads * WIDTH * pairs
        once = 4 * heads * tokens * WIDTH * 2
        show(rows, f"{name}{what} forward, bf16, D {WIDTH}, heads {heads}/{heads}, {tokens} tokens",
             alternate(calls, options.rounds), ours[-1].name, flops,
             {"products": flops / ours[-1].rate, "HBM": once / HBM})


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
    kernel = for_targets(options, "nsa-selected", group=group, pick=options.selected_pick)[-1]

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


def moba_peers():
    """The peers that are there: by name, calls of (q, k, v, cu_seqlens, tokens, block, top) on packed tensors."""
    import importlib.util
    folders = [folder for folder in os.environ.get("MOBA_REF", "").split(os.pathsep) if folder]
    sys.path[:0] = folders
    try:
        import fa_shim
    except ImportError:
        fa_shim = None
    found = {}

    def moonshot():
        paths = [os.path.join(folder, *name) for folder in folders for name in (["moba_efficient.py"], ["moba", "moba_efficient.py"])]
        path = next((path for path in paths if os.path.exists(path)), None)
        if path is None:
            raise ImportError("moba_efficient.py lies in no folder of MOBA_REF")
        if fa_shim:
            fa_shim.install(8)
        spec = importlib.util.spec_from_file_location("moba_efficient", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.moba_attn_varlen

    def fla():
        if fa_shim:
            fa_shim.install(4)
        from fla.ops.moba.parallel import parallel_moba
        return lambda q, k, v, *rest: parallel_moba(q[None], k[None], v[None], *rest)[0]
    for name, load in [("MoonshotAI MoBA", moonshot), ("fla parallel_moba", fla)]:
        try:
            found[name] = load()
        except Exception as missing:
            print(f"\n{name} is not there ({type(missing).__name__}: {str(missing)[:120]}): lacuna is timed without it")
    return found


def moba_gate(q, k, batch, block, top):
    """Of equal documents: which blocks each row sees, [documents, heads, length, blocks], and by how much the worst that is
    seen is better than the best that is not."""
    q, k = apart(q, batch), apart(k, batch)
    length, blocks = q.shape[2], -(-q.shape[2] // block)
    means = [k[:, :, b * block:(b + 1) * block].float().mean(2) for b in range(blocks)]
    scores = q.double() @ torch.stack(means, 2).to(k.dtype).double().transpose(-1, -2)
    own = torch.arange(length, device="cuda") // block
    index = torch.arange(blocks, device="cuda")
    scores.masked_fill_(index[None] >= own[:, None], -math.inf)
    value, chosen = scores.topk(min(top, blocks), -1)
    taken = value[..., :top - 1].isfinite()
    seen = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, chosen[..., :top - 1], taken)
    gap = torch.full_like(value[..., 0], math.inf)
    if value.shape[-1] == top and top > 1:
        gap = torch.where(value[..., -1].isfinite(), value[..., -2] - value[..., -1], gap)
    return seen | (index[None] == own[:, None]), gap


def moba_pairs(length, block, top):
    """Pairs that are seen in a document of whole blocks, and pairs of a query and a block that has a score."""
    blocks = length // block
    seen = sum(min(top - 1, b) * block * block + block * (block + 1) // 2 for b in range(blocks))
    return seen, block * blocks * (blocks - 1) // 2


def moba_kernel(options, batch, heads, length, block, top):
    given = ["--block", str(block), "--top-k", str(top), "--docs", ",".join([str(length)] * batch), "--heads", str(heads)]
    return for_targets(options, "moba", options=[*given, *options.moba_options.split()], pick=options.moba_pick)[-1]


def moba_check(options, peers):
    batch, heads, length, block, top = 2, 4, 4096, 128, 8
    kernel = moba_kernel(options, batch, heads, length, block, top)
    t = packed(batch, heads, length)
    kernel.bind(t, max_seqlen=length, scale=WIDTH ** -0.5)()
    seen, gap = moba_gate(t["q"], t["k"], batch, block, top)
    position = torch.arange(length, device="cuda")
    q, k, v = (apart(t[n], batch).double() for n in "qkv")
    reference, lse = torch.empty_like(q), torch.empty(q.shape[:3], device="cuda", dtype=torch.float64)
    for d in range(batch):
        for h in range(heads):
            keys = seen[d, h].repeat_interleave(block, 1)[:, :length] & (position[None] <= position[:, None])
            scores = (q[d, h] @ k[d, h].T * WIDTH ** -0.5).masked_fill(~keys, -math.inf)
            reference[d, h], lse[d, h] = scores.softmax(-1) @ v[d, h], scores.logsumexp(-1)
    # Where two scores are nearly equal, either block is right.
    clear = gap > 1e-2
    print(f"\nMoBA against float64, {clear.double().mean():.1%} of the rows, those whose choice is clear: lacuna "
          f"{error(apart(t['o'], batch)[clear], reference[clear]):.1e}; "
          f"LSE {(apart(t['lse'], batch) - lse)[clear].abs().max():.1e}")
    for name, peer in peers.items():
        try:
            o = peer(t["q"], t["k"], t["v"], t["cu_seqlens"], length, block, top)
            print(f"  {name} {error(apart(o, batch)[clear], reference[clear]):.1e}")
        except Exception as refused:
            print(f"  {name} fails ({type(refused).__name__}: {str(refused)[:120]})")


def moba(options, rows):
    peers = moba_peers()
    try:
        moba_check(options, peers)
    except Exception as failed:
        print(f"\nMoBA cannot be checked ({type(failed).__name__}: {str(failed)[:200]})")
    for setting in MOBA:
        if setting[2] > options.most_tokens:
            print(f"\nMoBA at {setting[2]} tokens is left out: --most-tokens is {options.most_tokens}")
            continue
        try:
            moba_setting(options, rows, peers, *setting)
        except Exception as failed:
            print(f"\nMoBA at {setting} fails ({type(failed).__name__}: {str(failed)[:200]})")
        torch.cuda.empty_cache()


def moba_setting(options, rows, peers, batch, heads, length, block, top):
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel
    title = f"MoBA forward, bf16, D {WIDTH}, batch {batch}, heads {heads}/{heads}, {length} tokens, block {block}, top-k {top}"
    kernel = moba_kernel(options, batch, heads, length, block, top)
    t = packed(batch, heads, length)
    ours = kernel.bind(t, max_seqlen=length, scale=WIDTH ** -0.5)
    candidates = {kernel.name: ours}
    for name, peer in peers.items():
        candidates[name] = lambda peer=peer: peer(t["q"], t["k"], t["v"], t["cu_seqlens"], length, block, top)
    if batch * heads * length * WIDTH < 2 ** 31:
        apart_t = [apart(t[n], batch).contiguous() for n in "qkv"]

        def dense():
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                F.scaled_dot_product_attention(*apart_t, is_causal=True)
        candidates["dense FlashAttention-2 (PyTorch), every block"] = dense
    else:
        print(f"\n{title}: without dense FlashAttention-2, whose tensors would have 2^31 elements")
    if length <= 32768:
        try:
            candidates["FlexAttention (PyTorch), given the routing"] = moba_flex(t, batch, block, top)
        except Exception as refused:
            print(f"\n{title}: without FlexAttention ({type(refused).__name__}: {str(refused)[:120]})")
    calls, most = {}, 0.0
    for name, call in candidates.items():
        try:
            call()
            torch.cuda.synchronize()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record(); call(); end.record()
            torch.cuda.synchronize()
            calls[name], most = call, max(most, start.elapsed_time(end))
        except Exception as refused:
            if name == kernel.name:
                raise
            print(f"\n{name} does not take it ({type(refused).__name__}: {str(refused)[:120]})")
            torch.cuda.empty_cache()
    # About three seconds for the slowest.
    rounds = max(1, min(options.rounds, int(3000 / max(most, 1e-3))))
    seen, gated = moba_pairs(length, block, top)
    flops = 4.0 * batch * heads * seen * WIDTH
    products = flops + 2.0 * batch * heads * gated * WIDTH
    once = 4 * batch * heads * length * WIDTH * 2
    show(rows, title, alternate(calls, rounds), kernel.name, flops, {"products": products / BURST, "HBM": once / COPY})
    launches = by_launch(ours, rounds)
    print("  by launch, ms: " + ", ".join(f"{entry} {ms:.3f}" for entry, ms in launches.items())
          + f"; workspace {ours.workspace / 1e9:.2f} GB; {rounds} rounds")
    rows.append(dict(case=title, name=kernel.name, launches=launches, workspace_bytes=ours.workspace))


def moba_flex(t, batch, block, top):
    """FlexAttention under the routing of PyTorch's own gate: its mask is made here, and is not timed."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    torch._dynamo.config.recompile_limit = 64
    flex, block_mask = torch.compile(flex_attention, dynamic=False), torch.compile(create_block_mask, dynamic=False)
    seen = torch.cat([moba_gate(t["q"][:, h:h + 1], t["k"][:, h:h + 1], batch, block, top)[0] for h in range(t["q"].shape[1])], 1)
    length = seen.shape[2]

    def routed(b, h, q, kv):
        return (kv <= q) & seen[b, h, q, kv // block]
    mask = block_mask(routed, batch, seen.shape[1], length, length, device="cuda")
    whole = [apart(t[n], batch).contiguous() for n in "qkv"]
    return lambda: flex(*whole, block_mask=mask)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="dense|masks|selected|moba", help="which comparisons; all where none is named")
    parser.add_argument("--lacuna", default=os.path.join(ROOT, "target/release/lacuna"), help="the lacuna command")
    parser.add_argument("--targets", default="", help="targets to compile lacuna for, such as sm_90,sm_90a: dense and masks time each, "
                        "and show ratios of the last, with which selected and moba are timed; the highest that the GPU runs where none is named")
    parser.add_argument("--peers", default="", help="of dense: run these peers alone, such as cuDNN; FlashAttention-2 takes less power than "
                        "others, so that what follows it finds a cooler card")
    parser.add_argument("--dense-pick", default="", help="as for `lacuna emit causal --pick`")
    parser.add_argument("--mask-pick", default="", help="as for `lacuna emit window --pick`")
    parser.add_argument("--selected-pick", default="", help="as for `lacuna emit nsa-selected --pick`")
    parser.add_argument("--moba-pick", default="", help="as for `lacuna emit moba --pick`")
    parser.add_argument("--moba-options", default="", help="more options of `lacuna emit moba`, such as '--token-chunks 4'")
    parser.add_argument("--most-tokens", type=int, default=1 << 20, help="leave out MoBA's documents that are longer")
    parser.add_argument("--heads", default="64/4,32/8,16/16,48/16,56/8", help="query and KV heads of NSA selected",
                        type=lambda text: [tuple(map(int, pair.split("/"))) for pair in text.split(",")])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="the figures as JSON, last")
    options = parser.parse_args()
    comparisons = {"dense": dense, "masks": masks, "selected": selected, "moba": moba}
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
