"""Every tolerance of the suite, each with its reason; a test never writes one of its own.

Exact comparison is the rule and needs no entry here: fake quantization against its oracles, saved against reloaded
checkpoints and quantizers-off against the float model are compared with ``==`` or ``torch.equal``.
"""

from typing import NamedTuple


class Tolerance(NamedTuple):
    """The largest difference a comparison accepts, and why it is not zero."""

    value: float
    reason: str


SDPA = Tolerance(2e-5, "the contract's figure: fused attention sums its products in another order than eager attention")
HALF_STEP = Tolerance(
    0.5 + 2.0**-16, "of a step: half of one, and FP32's roundings of the quotient and of the product, 2^-17 each"
)
PADDING = Tolerance(1e-5, "a wider batch lets the matmuls add the same products in another order")
SCALE_GRADIENT = Tolerance(1e-5, "an FP32 quotient and an FP32 sum of at most 64 terms against the FP64 oracle")
DISTILLATION = Tolerance(1e-5, "FP32 logarithms and exponentials against the FP64 oracle")
MICRO_BATCHES = Tolerance(1e-2, "another summation order moves a few activations over a rounding tie")
SHARDED_STEPS = Tolerance(
    1e-3, "one step of four at the rate of 1e-3: Adam on a piece of a weight rounds otherwise, which moves ties"
)
COMPILED = Tolerance(2e-2, "of a loss near 1: fused kernels round otherwise, which moves activations over ties")
PACKED = Tolerance(1e-5, "one wide FP32 matmul against three narrow ones adds the same products in another order")


GRAPH_FP32 = Tolerance(1e-5, "FP32 sums in another order give 6e-7 of the largest logit; ten times that, rounded up")
FLIPPED_ROWS = Tolerance(
    1, "rows of a comparison in which one INT8 rounding tie fell the other way and moved the logits"
)
TIE = Tolerance(
    1e-5, "two engines may round a value apart only where it lies this close to a tie, relative to its range"
)
TIE_FP16 = Tolerance(2e-3, "the same in FP16: the four roundings of 2^-11 that lie between two quantizers")
FLOAT_FP16 = Tolerance(
    1e-2, "logits of a float graph in FP16: roundings of 2^-11 through three layers of random weights"
)
FLOAT_BF16 = Tolerance(1.6e-2, "the same in BF16, whose roundings are 2^-8, of a graph of six nodes")
HALF_TO_INT8 = Tolerance(2.0, "FP16 beside INT8 flips ties; it may cost, at most, about what INT8 itself costs again")
SPLIT = Tolerance(1e-5, "FP32 sums of the copies' shares in another order than the one product they replace")
SHIFTED = Tolerance(1e-5, "FP32 sums of a convolution in the order of its kernel against the reference's own order")
SCALED_FP16 = Tolerance(2.0**-11, "one rounding of a dequantization scale to FP16")
KERNELS = Tolerance(1.0, "the contract's figure: INT8 launches no more kernels than its FP16 twin")
PLAN_BYTES = {
    "bert": Tolerance(0.83, "the contract's figure: activation bytes of the plan as a share of its FP16 twin's"),
    "albert": Tolerance(0.84, "likewise"),
    "convbert": Tolerance(0.88, "likewise"),
    "squeezebert": Tolerance(0.75, "likewise"),
}
PAIRED = Tolerance(1e-9, "percentage points: FP64 sums of at most sixty rows in another order")
RANGE_SUMS = Tolerance(1e-9, "FP64 sums over cumulative counts against the same sums value by value")
HISTOGRAM_MSE = Tolerance(1.002, "values counted at their nearest FP16 number, 2^-11 off, move the error of a range")
REPLAYED = Tolerance(1e-12, "a harm, FP32 errors squared: a part run with gradients and without sums in another order")
PROJECTIONS = Tolerance(0.03, "second moments of 8,000 random projections against their expectation, 3 standard errors")
MODELOPT_FP32 = Tolerance(1e-6, "relative: ModelOpt's bin edges are in FP32")
MODELOPT_PERCENTILE = Tolerance(
    2.0**-11, "relative, beside one of ModelOpt's bins, whose lower edge it gives: ours is the nearest FP16 number"
)
MODELOPT_ENTROPY = Tolerance(
    64, "of 2048 bins: FP16 numbers spread over them instead of values put into one, where few outliers leave KL flat"
)
MODELOPT_MSE_RANGE = Tolerance(2.0 ** (1 / 16), "a ratio: our ranges lie 4 % apart, ModelOpt's a 2048th of the largest")
MODELOPT_MSE = Tolerance(1.03, "squared error of the best of our ranges by that of ModelOpt's denser ones")
CORRELATION = Tolerance(1e-9, "correlations of at most twenty ranks in FP64, their sums in another order")
HEAD_METRIC = Tolerance(0.1, "one flipped tie changes one answer of 24, in a metric of precision and recall both")
POOLED = Tolerance(1e-5, "FP32 sums of at most 500 tokens and 384 channels against the FP64 definition")
POOLED_FP16 = Tolerance(
    2e-3, "the same in FP16: of 500 products and their sum, four roundings of 2^-11 of values below 1"
)
OPTIMIZED_PERPLEXITY = Tolerance(
    1e-2, "relative: an optimized FP16 graph rounds otherwise, in 200 tokens of random weights"
)
ESTIMATED_SQNR = Tolerance(1.0, "decibels: values spread evenly over bins of 19 % instead of where they lie")
ESTIMATED_CLIPPING = Tolerance(0.01, "a share: the same, over the one bin that holds the range")
FORMULA = Tolerance(1e-5, "the contract's figure: FP32 sums of at most 64 terms against the formula in FP64")
HEAD_DIFFERENCE = Tolerance(
    1e-5, "relative: central differences in FP64 with a step of 1e-4, whose error is its square"
)
LIKELIHOOD = Tolerance(1e-5, "relative: FP32 log-likelihoods of a vocabulary of 50 to 200, summed in another order")
MASKED_SHARES = Tolerance(0.03, "a share of 600 to 1,800 draws: four standard errors or more")
PERPLEXITY = Tolerance(5e-3, "relative: one flipped tie moves the likelihood of a few of 50 words")
TOLD = Tolerance(1e-5, "probabilities and vectors below 1: FP32 sums in another order, through a softmax")
PARTS = Tolerance(1e-5, "relative: the same rows in other batches, and FP64 sums of their FP32 scores in another order")
STREAMED_PEAK = Tolerance(1.06, "peaks of two processes: holes in their heaps, 3 % seen; rows that are held add 13 %")
STREAMED = Tolerance(1.02, "the contract's figure: resident memory under load stays flat within 2 %")
