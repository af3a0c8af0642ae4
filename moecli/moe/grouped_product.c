/* Products of the rows of several experts with the weights of each, all experts in one call: grouped_product.py calls it.

   For x86 with AVX-512. Matrices are of float32. Knows matrices. Must not know what is multiplied, nor allocate: a thread needs 64 KB of
   its stack.

   The result is made in tiles of 6 rows and 64 columns. The sums of a tile stay in 24 of the 32 registers of 16 numbers; each step along
   the depth (over which is summed) loads 64 numbers of the right matrix and 6 of the left one, for 384 multiplications and additions. So
   the right matrix has to be row-major: of a column-major one a panel, 64 columns wide, is copied that way first. Around the tiles are
   blocks: what a thread takes from a list, and a part of the depth, of sizes at which both matrices stay in its second cache.

   Of an expert with few rows, as in generation, nothing is as much work as reading its weights, and copies would be as much again: they are
   multiplied as they lie, if column-major, two columns at a time that are half a block apart.

   Letters: E experts, N rows of all, I inputs, O outputs. */

#include <immintrin.h>
#include <stdint.h>

#define LANES 16
#define TILE_ROWS 6
#define TILE_VECTORS 4
#define PANEL (TILE_VECTORS * LANES)
/* Of a block, at most. */
#define BLOCK_ROWS 192
#define BLOCK_COLUMNS 256
#define BLOCK_DEPTH 256
#define BLOCKS_PER_THREAD 4
/* Of an expert, at most, for weights to be read as they lie. And at most one to a vector of the depth: sums across vectors cost more. */
#define FEW_ROWS 8
/* Numbers ahead that memory is asked for what will be read: further than the processor looks by itself. */
#define AHEAD 512

#define AVX512 __attribute__((target("avx512f")))
/* Loops whose bounds are known are unrolled early, or their arrays would not become registers. */
#define UNROLLED _Pragma("GCC unroll 16") for

/* Numbers from one row to the next, and from one column to the next. Results are row-major. */
typedef struct {
    int64_t left_row, left_column, right_row, right_column, result_row;
} Steps;

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t parts(int64_t whole, int64_t size) { return (whole + size - 1) / size; }

#define INLINED AVX512 static inline __attribute__((always_inline))

INLINED __m512 load(const float *from, int is_last, __mmask16 last) {
    return is_last ? _mm512_maskz_loadu_ps(last, from) : _mm512_loadu_ps(from);
}

INLINED void store(float *to, __m512 vector, int is_last, __mmask16 last) {
    if (is_last)
        _mm512_mask_storeu_ps(to, last, vector);
    else
        _mm512_storeu_ps(to, vector);
}

/* rows and vectors are constants wherever this is called. right is row-major; `last` says which lanes of the last vector there are. */
INLINED void multiply_tile(const int rows, const int vectors, const float *left, const float *right, float *result, const Steps *steps,
                           int64_t depth, int adds, __mmask16 last) {
    __m512 sums[TILE_ROWS][TILE_VECTORS], of_right[TILE_VECTORS];
    UNROLLED (int r = 0; r < rows; r++)
        UNROLLED (int v = 0; v < vectors; v++) sums[r][v] = _mm512_setzero_ps();
    for (int64_t d = 0; d < depth; d++) {
        UNROLLED (int v = 0; v < vectors; v++)
            of_right[v] = load(right + d * steps->right_row + v * LANES, v == vectors - 1, last);
        UNROLLED (int r = 0; r < rows; r++) {
            __m512 of_left = _mm512_set1_ps(left[r * steps->left_row + d * steps->left_column]);
            UNROLLED (int v = 0; v < vectors; v++) sums[r][v] = _mm512_fmadd_ps(of_left, of_right[v], sums[r][v]);
        }
    }
    /* Sums of parts of the depth, added up at their ends: a single chain of many thousand additions would be rounded as often. */
    UNROLLED (int r = 0; r < rows; r++)
        UNROLLED (int v = 0; v < vectors; v++) {
            float *place = result + r * steps->result_row + v * LANES;
            if (adds) sums[r][v] = _mm512_add_ps(sums[r][v], load(place, v == vectors - 1, last));
            store(place, sums[r][v], v == vectors - 1, last);
        }
}

#define TILE_ARGUMENTS const float *left, const float *right, float *result, const Steps *steps, int64_t depth, int adds, __mmask16 last
typedef void (*Tile)(TILE_ARGUMENTS);

#define DEFINE_TILE(ROWS, VECTORS) \
    AVX512 static void tile_##ROWS##_##VECTORS(TILE_ARGUMENTS) { \
        multiply_tile(ROWS, VECTORS, left, right, result, steps, depth, adds, last); \
    }
#define DEFINE_TILES(ROWS) DEFINE_TILE(ROWS, 1) DEFINE_TILE(ROWS, 2) DEFINE_TILE(ROWS, 3) DEFINE_TILE(ROWS, 4)
#define TILES_OF(ROWS) {tile_##ROWS##_1, tile_##ROWS##_2, tile_##ROWS##_3, tile_##ROWS##_4}

DEFINE_TILES(1) DEFINE_TILES(2) DEFINE_TILES(3) DEFINE_TILES(4) DEFINE_TILES(5) DEFINE_TILES(6)

static const Tile TILES[TILE_ROWS][TILE_VECTORS] = {TILES_OF(1), TILES_OF(2), TILES_OF(3), TILES_OF(4), TILES_OF(5), TILES_OF(6)};

/* A result of at most a panel's width; right is row-major. */
static void multiply_panel(const float *left, const float *right, float *result, const Steps *steps, int64_t rows, int64_t columns,
                           int64_t depth, int adds) {
    int64_t vectors = parts(columns, LANES);
    __mmask16 last = (__mmask16)(0xffff >> (vectors * LANES - columns));
    for (int64_t row = 0; row < rows; row += TILE_ROWS)
        TILES[smaller(rows - row, TILE_ROWS) - 1][vectors - 1](left + row * steps->left_row, right, result + row * steps->result_row, steps,
                                                               depth, adds, last);
}

/* 16 by 16 numbers: rows that are from_step apart become columns of rows that are a panel apart. */
AVX512 static void transpose_square(const float *from, int64_t from_step, float *to) {
    __m512 a[16], b[16];
    UNROLLED (int i = 0; i < 16; i++) a[i] = _mm512_loadu_ps(from + i * from_step);
    UNROLLED (int i = 0; i < 16; i += 2) { /* pairs of numbers */
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    UNROLLED (int i = 0; i < 16; i += 4) /* fours of numbers */
        UNROLLED (int j = 0; j < 2; j++) {
            __m512d first = _mm512_castps_pd(b[i + j]), second = _mm512_castps_pd(b[i + j + 2]);
            a[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(first, second));
            a[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(first, second));
        }
    UNROLLED (int i = 0; i < 16; i += 8) /* eights */
        UNROLLED (int j = 0; j < 4; j++) {
            b[i + j] = _mm512_shuffle_f32x4(a[i + j], a[i + j + 4], 0x88);
            b[i + j + 4] = _mm512_shuffle_f32x4(a[i + j], a[i + j + 4], 0xdd);
        }
    UNROLLED (int j = 0; j < 8; j++) { /* whole rows */
        _mm512_storeu_ps(to + j * PANEL, _mm512_shuffle_f32x4(b[j], b[j + 8], 0x88));
        _mm512_storeu_ps(to + (j + 8) * PANEL, _mm512_shuffle_f32x4(b[j], b[j + 8], 0xdd));
    }
}

/* At most a panel's width of a column-major matrix becomes row-major. */
static void pack_panel(const float *from, int64_t from_step, int64_t columns, int64_t depth, float *packed) {
    for (int64_t c = 0; c < columns; c += LANES)
        for (int64_t d = 0; d < depth; d += LANES) {
            const float *square = from + c * from_step + d;
            float *to = packed + d * PANEL + c;
            if (columns - c >= LANES && depth - d >= LANES)
                transpose_square(square, from_step, to);
            else
                for (int64_t i = 0; i < smaller(LANES, columns - c); i++)
                    for (int64_t j = 0; j < smaller(LANES, depth - d); j++) to[j * PANEL + i] = square[i * from_step + j];
        }
}

/* Fewer than BLOCK_ROWS where there would be too few blocks for the threads. `stacks`: blocks beside each other, for all experts. */
static int64_t rows_of_block(int64_t rows, int64_t stacks, int threads) {
    int64_t of_block = BLOCK_ROWS;
    while (of_block > 4 * TILE_ROWS && stacks * parts(rows, of_block) < BLOCKS_PER_THREAD * threads) of_block /= 2;
    return of_block;
}

static void multiply_block(const float *left, const float *right, float *result, const Steps *steps, int64_t rows, int64_t columns,
                           int64_t depth) {
    float packed[BLOCK_DEPTH * PANEL] __attribute__((aligned(64)));
    int packs = steps->right_column != 1;
    Steps of_panel = *steps;
    if (packs) of_panel.right_row = PANEL;
    int64_t d = 0;
    do { /* once for no depth at all: sums of nothing are 0 */
        int64_t part = smaller(BLOCK_DEPTH, depth - d);
        for (int64_t c = 0; c < columns; c += PANEL) {
            int64_t width = smaller(PANEL, columns - c);
            const float *panel = right + d * steps->right_row + c * steps->right_column;
            if (packs) pack_panel(panel, steps->right_column, width, part, packed);
            multiply_panel(left + d * steps->left_column, packs ? packed : panel, result + c, &of_panel, rows, width, part, d > 0);
        }
        d += BLOCK_DEPTH;
    } while (d < depth);
}

/* rows and columns are constants wherever this is called: 1 column, or 2 that are `apart`. right is column-major. */
INLINED void multiply_columns(const int rows, const int columns, const float *left, const float *right, float *result, const Steps *steps,
                              int64_t depth, int64_t apart) {
    __m512 sums[FEW_ROWS][2], of_right[2];
    UNROLLED (int r = 0; r < rows; r++)
        UNROLLED (int c = 0; c < columns; c++) sums[r][c] = _mm512_setzero_ps();
    for (int64_t d = 0; d < depth; d += LANES) {
        int is_last = depth - d < LANES;
        __mmask16 last = (__mmask16)((1 << smaller(depth - d, LANES)) - 1);
        UNROLLED (int c = 0; c < columns; c++) {
            const float *from = right + c * apart * steps->right_column + d;
            _mm_prefetch((const char *)(from + AHEAD), _MM_HINT_T0);
            of_right[c] = load(from, is_last, last);
        }
        UNROLLED (int r = 0; r < rows; r++) {
            __m512 of_left = load(left + r * steps->left_row + d, is_last, last);
            UNROLLED (int c = 0; c < columns; c++) sums[r][c] = _mm512_fmadd_ps(of_left, of_right[c], sums[r][c]);
        }
    }
    UNROLLED (int r = 0; r < rows; r++)
        UNROLLED (int c = 0; c < columns; c++) result[r * steps->result_row + c * apart] = _mm512_reduce_add_ps(sums[r][c]);
}

#define COLUMNS_ARGUMENTS const float *left, const float *right, float *result, const Steps *steps, int64_t depth, int64_t apart
typedef void (*Columns)(COLUMNS_ARGUMENTS);

#define DEFINE_COLUMNS(ROWS, COLUMNS) \
    AVX512 static void columns_##ROWS##_##COLUMNS(COLUMNS_ARGUMENTS) { \
        multiply_columns(ROWS, COLUMNS, left, right, result, steps, depth, apart); \
    }
#define DEFINE_ALL_COLUMNS(ROWS) DEFINE_COLUMNS(ROWS, 1) DEFINE_COLUMNS(ROWS, 2)
#define COLUMNS_OF(ROWS) {columns_##ROWS##_1, columns_##ROWS##_2}

DEFINE_ALL_COLUMNS(1) DEFINE_ALL_COLUMNS(2) DEFINE_ALL_COLUMNS(3) DEFINE_ALL_COLUMNS(4)
DEFINE_ALL_COLUMNS(5) DEFINE_ALL_COLUMNS(6) DEFINE_ALL_COLUMNS(7) DEFINE_ALL_COLUMNS(8)

static const Columns COLUMNS[FEW_ROWS][2] = {COLUMNS_OF(1), COLUMNS_OF(2), COLUMNS_OF(3), COLUMNS_OF(4),
                                             COLUMNS_OF(5), COLUMNS_OF(6), COLUMNS_OF(7), COLUMNS_OF(8)};

static void multiply_few_rows(const float *left, const float *right, float *result, const Steps *steps, int64_t rows, int64_t columns,
                              int64_t depth) {
    int64_t half = parts(columns, 2);
    for (int64_t c = 0; c < half; c++)
        COLUMNS[rows - 1][c + half < columns](left, right + c * steps->right_column, result + c, steps, depth, half);
}

/* y_NO = x_NI W, expert by expert. weights: [E, I, O], or [E, O, I] if they lie transposed. lengths: rows of each expert. */
void grouped_product(const float *x, const float *weights, float *y, const int64_t *lengths, int64_t experts, int64_t inputs,
                     int64_t outputs, int transposed, int threads) {
    int64_t firsts[experts], with_rows[experts], busy = 0, rows = 0, longest = 0;
    for (int64_t e = 0; e < experts; e++) {
        firsts[e] = rows;
        if (lengths[e]) with_rows[busy++] = e;
        rows += lengths[e];
        longest = lengths[e] > longest ? lengths[e] : longest;
    }
    Steps steps = {inputs, 1, transposed ? 1 : outputs, transposed ? inputs : 1, outputs};
    int64_t few = transposed ? smaller(FEW_ROWS, inputs / LANES) : 0, width = longest <= few ? PANEL : BLOCK_COLUMNS;
    int64_t across = parts(outputs, width);
    int64_t of_block = rows_of_block(longest, busy * across, threads), down = parts(longest, of_block);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t block = 0; block < busy * down * across; block++) {
        int64_t e = with_rows[block / (down * across)], row = block / across % down * of_block, column = block % across * width;
        if (row >= lengths[e]) continue;
        const float *left = x + (firsts[e] + row) * inputs, *right = weights + e * inputs * outputs + column * steps.right_column;
        float *result = y + (firsts[e] + row) * outputs + column;
        (lengths[e] <= few ? multiply_few_rows : multiply_block)(left, right, result, &steps, smaller(of_block, lengths[e] - row),
                                                                 smaller(width, outputs - column), inputs);
    }
}

/* dW_EOI = dy_NO^T x_NI, expert by expert; 0 for an expert without rows. */
void grouped_weight_gradient(const float *dy, const float *x, float *dweights, const int64_t *lengths, int64_t experts, int64_t outputs,
                             int64_t inputs, int threads) {
    int64_t firsts[experts], rows = 0;
    for (int64_t e = 0; e < experts; e++) {
        firsts[e] = rows;
        rows += lengths[e];
    }
    Steps steps = {1, outputs, inputs, 1, inputs};
    int64_t across = parts(inputs, BLOCK_COLUMNS);
    int64_t of_block = rows_of_block(outputs, experts * across, threads), down = parts(outputs, of_block);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t block = 0; block < experts * down * across; block++) {
        int64_t e = block / (down * across), row = block / across % down * of_block, column = block % across * BLOCK_COLUMNS;
        const float *left = dy + firsts[e] * outputs + row, *right = x + firsts[e] * inputs + column;
        float *result = dweights + (e * outputs + row) * inputs + column;
        multiply_block(left, right, result, &steps, smaller(of_block, outputs - row), smaller(BLOCK_COLUMNS, inputs - column), lengths[e]);
    }
}
