// 3x3 convolutions of stride 1 and padding 1, and their gradients, by Winograd's minimal filtering F(4x4, 3x3)
// (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308): a tile of 4x4 outputs takes
// 36 multiplications per pair of channels instead of 144.
//
// Images are [count][height][width][channels] in float32 or bfloat16, weights float32 [to][3][3][from], channels a
// multiple of 16. What a transform makes of a tile, or of weights, is called its spectrum: 36 "frequencies", each a vector
// over the channels. Transforms are computed in float32; between them all arithmetic is 36 matrix products, of spectra in
// the format of the images with sums in float32. The order of every sum is the same with any number of threads.

#include <algorithm>
#include <barrier>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

#ifdef __AVX512F__
constexpr int kLane = 16;   // floats in a vector
constexpr int kRows = 8;    // of a product at a time,
constexpr int kPanels = 2;  // and panels: each factor that is loaded serves two of AVX-512's multiplications
#else
constexpr int kLane = 8;
constexpr int kRows = 6;    // 12 sums, two vectors and one factor fill 15 of AVX2's 16 registers
constexpr int kPanels = 1;
#endif
constexpr int kPanel = 16;  // channels that lie together
constexpr int kTaps = 3;    // of the weights along an edge
constexpr int kTile = 4;    // outputs along the edge of a tile
constexpr int kEdge = kTile + kTaps - 1;  // inputs along the edge of a tile
constexpr int kFrequencies = kEdge * kEdge;

typedef float Vector __attribute__((vector_size(kLane * sizeof(float)), aligned(alignof(float))));

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }
inline Vector broadcast(float value) { return value - Vector{}; }
inline Vector gather(const float* from, int64_t step) {
  if (step == 1) return load(from);
  Vector values;
  for (int i = 0; i < kLane; ++i) values[i] = from[i * step];
  return values;
}

// How images and spectra are stored and multiplied. Spectra consist of words of four bytes, each of `terms` numbers that
// are next to each other along the depth of a product.

struct Float32 {
  using Pixel = float;
  static constexpr int terms = 1;
  static inline Vector load_pixels(const Pixel* from) { return load(from); }
  static inline void store_pixels(Pixel* to, Vector value) { store(to, value); }
  static inline void store_along(float* to, Vector value) { store(to, value); }
  static inline void store_across(float* to, const Vector* values) { store(to, values[0]); }
  static inline Vector multiply_add(Vector factor, Vector words, Vector sum) { return sum + factor * words; }
};

#ifdef __AVX512BF16__
struct BFloat16 {
  using Pixel = uint16_t;
  static constexpr int terms = 2;
  static inline Vector load_pixels(const Pixel* from) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return Vector(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16)));
  }
  static inline void store_pixels(Pixel* to, Vector value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh((__m512)value));
  }
  // A vector whose values follow each other along the depth.
  static inline void store_along(float* to, Vector value) { store_pixels(reinterpret_cast<Pixel*>(to), value); }
  // Two vectors that follow each other along the depth.
  static inline void store_across(float* to, const Vector* values) {
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)values[0]));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)values[1]));
    _mm512_storeu_si512(to, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
  }
  static inline Vector multiply_add(Vector factor, Vector words, Vector sum) {
    return Vector(_mm512_dpbf16_ps((__m512)sum, (__m512bh)factor, (__m512bh)words));
  }
};
#endif

// The transforms along one edge: from vectors that lie s apart to vectors that lie t apart. A tile is a polynomial, which
// is evaluated at 0, at two pairs of opposite points and at infinity. These two pairs lose least to rounding of those
// that were tried: 0.9 % of the outputs' deviation in bfloat16, where 1 and 2, which are usual, lose 2.3 %.
constexpr double kNear = 0.7, kFar = 1.5;
constexpr double kNear2 = kNear * kNear, kFar2 = kFar * kFar;
constexpr float a = kNear, b = kFar, a2 = kNear2, b2 = kFar2, a3 = a2 * kNear, b3 = b2 * kFar;
constexpr float kProduct = kNear2 * kFar2, kSum = kNear2 + kFar2;
// By what the polynomials that single out a point have to be divided.
constexpr float kOfZero = 1 / (kNear2 * kFar2), kOfNear = 1 / (2 * kNear2 * (kNear2 - kFar2)),
                kOfFar = 1 / (2 * kFar2 * (kFar2 - kNear2));

// A polynomial at opposite points, from its even and its odd part at the positive ones.
inline void evaluate(Vector even, Vector odd, Vector far_even, Vector far_odd, Vector* v, int t) {
  v[t] = even + odd;
  v[2 * t] = even - odd;
  v[3 * t] = far_even + far_odd;
  v[4 * t] = far_even - far_odd;
}

struct OfInputs {  // B^T
  static constexpr int in = kEdge, out = kEdge;
  static inline void apply(const Vector* d, int s, Vector* v, int t) {
    v[0] = kProduct * d[0] - kSum * d[2 * s] + d[4 * s];
    evaluate(d[4 * s] - b2 * d[2 * s], a * (d[3 * s] - b2 * d[s]), d[4 * s] - a2 * d[2 * s], b * (d[3 * s] - a2 * d[s]), v, t);
    v[5 * t] = kProduct * d[s] - kSum * d[3 * s] + d[5 * s];
  }
};

struct OfWeights {  // G
  static constexpr int in = kTaps, out = kEdge;
  static inline void apply(const Vector* g, int s, Vector* u, int t) {
    u[0] = g[0] * kOfZero;
    evaluate((g[0] + g[2 * s] * a2) * kOfNear, g[s] * (a * kOfNear), (g[0] + g[2 * s] * b2) * kOfFar, g[s] * (b * kOfFar), u, t);
    u[5 * t] = g[2 * s];
  }
};

struct ToWeights {  // G^T
  static constexpr int in = kEdge, out = kTaps;
  static inline void apply(const Vector* u, int s, Vector* g, int t) {
    const Vector near = (u[s] + u[2 * s]) * kOfNear, far = (u[3 * s] + u[4 * s]) * kOfFar;
    g[0] = u[0] * kOfZero + near + far;
    g[t] = (u[s] - u[2 * s]) * (a * kOfNear) + (u[3 * s] - u[4 * s]) * (b * kOfFar);
    g[2 * t] = near * a2 + far * b2 + u[5 * s];
  }
};

struct OfOutputs {  // A
  static constexpr int in = kTile, out = kEdge;
  static inline void apply(const Vector* y, int s, Vector* m, int t) {
    m[0] = y[0];
    evaluate(y[0] + a2 * y[2 * s], a * y[s] + a3 * y[3 * s], y[0] + b2 * y[2 * s], b * y[s] + b3 * y[3 * s], m, t);
    m[5 * t] = y[3 * s];
  }
};

struct ToOutputs {  // A^T
  static constexpr int in = kEdge, out = kTile;
  static inline void apply(const Vector* m, int s, Vector* y, int t) {
    const Vector near_sum = m[s] + m[2 * s], near_difference = m[s] - m[2 * s];
    const Vector far_sum = m[3 * s] + m[4 * s], far_difference = m[3 * s] - m[4 * s];
    y[0] = m[0] + near_sum + far_sum;
    y[t] = a * near_difference + b * far_difference;
    y[2 * t] = a2 * near_sum + b2 * far_sum;
    y[3 * t] = a3 * near_difference + b3 * far_difference + m[5 * s];
  }
};

// The same along both edges of a square.
template <class Transform>
inline void transform(const Vector* from, Vector* to) {
  Vector half[Transform::in * Transform::out];
  for (int i = 0; i < Transform::in; ++i) Transform::apply(from + i, Transform::in, half + i, Transform::in);
  for (int i = 0; i < Transform::out; ++i) Transform::apply(half + i * Transform::in, 1, to + i * Transform::out, 1);
}

struct Images {
  int64_t height, width, channels;
  int64_t rows() const { return (height + kTile - 1) / kTile; }
  int64_t columns() const { return (width + kTile - 1) / kTile; }
  int64_t tiles() const { return rows() * columns(); }
  int64_t pixel(int64_t image, int64_t row, int64_t column) const {
    return ((image * height + row) * width + column) * channels;
  }
};

// Where the outputs of a tile begin.
struct Corner {
  int64_t image, top, left;
  Corner(Images shape, int64_t tile)
      : image(tile / shape.tiles()),
        top(tile % shape.tiles() / shape.columns() * kTile),
        left(tile % shape.columns() * kTile) {}
};

// Spectra of tiles in the order in which products read them. Tiles are rows of a product or its depth. Along the depth lie
// `terms` numbers in a word: [36][panels][tiles][kPanel / terms] words or [36][panels][tiles / terms][kPanel] words.
struct Spectra {
  float* data;
  int64_t tiles, channels;
  int terms;

  // Frequencies that are a power of two apart would share a few sets of the cache.
  Spectra placed(float* memory) const { return {memory, tiles, channels, terms}; }
  int64_t stride() const { return tiles * channels / terms + kPanel; }
  int64_t words() const { return kFrequencies * stride(); }
  float* at(int64_t frequency, int64_t panel, int64_t tile) const {
    return data + frequency * stride() + (panel * tiles + tile) * kPanel / terms;
  }
};

// Where the pixels of a tile lie: its kEdge x kEdge inputs (OfInputs) or its kTile x kTile outputs (OfOutputs). Those outside
// the image are read from zeros.
template <class Pixel, class Transform>
struct Tile {
  static constexpr int edge = Transform::in, border = (edge - kTile) / 2;
  const Pixel* pixels[edge * edge];

  Tile(const Pixel* images, Images shape, int64_t tile, const Pixel* zeros) {
    const Corner corner(shape, tile);
    for (int y = 0; y < edge; ++y)
      for (int x = 0; x < edge; ++x) {
        const int64_t row = corner.top - border + y, column = corner.left - border + x;
        const bool inside = row >= 0 && row < shape.height && column >= 0 && column < shape.width;
        pixels[y * edge + x] = inside ? images + shape.pixel(corner.image, row, column) : zeros;
      }
  }
};

// The spectrum of a tile in the channels of one vector.
template <class Number, class Transform>
inline void analyse(const Tile<typename Number::Pixel, Transform>& tile, int64_t channel, Vector* spectrum) {
  Vector pixels[Transform::in * Transform::in];
#pragma GCC unroll 36
  for (int i = 0; i < Transform::in * Transform::in; ++i) pixels[i] = Number::load_pixels(tile.pixels[i] + channel);
  transform<Transform>(pixels, spectrum);
}

// Spectra of tiles `begin` to `end`, at their distance from `first`, for products that have tiles as rows.
template <class Number, class Transform>
void analyse_rows(const typename Number::Pixel* images, Images shape, int64_t begin, int64_t end, int64_t first, Spectra to) {
  const std::vector<typename Number::Pixel> zeros(static_cast<std::size_t>(shape.channels));
  for (int64_t index = begin; index < end; ++index) {
    const Tile<typename Number::Pixel, Transform> tile(images, shape, index, zeros.data());
    for (int64_t channel = 0; channel < shape.channels; channel += kLane) {
      Vector spectrum[kFrequencies];
      analyse<Number, Transform>(tile, channel, spectrum);
      float* const start = to.at(0, channel / kPanel, index - first) + channel % kPanel / Number::terms;
      for (int f = 0; f < kFrequencies; ++f) Number::store_along(start + f * to.stride(), spectrum[f]);
    }
  }
}

// The same for products along tiles, `begin - first` being a multiple of `terms`. The missing tiles of a last word are zero.
template <class Number, class Transform>
void analyse_depth(const typename Number::Pixel* images, Images shape, int64_t begin, int64_t end, int64_t first, Spectra to) {
  using Pixel = typename Number::Pixel;
  const std::vector<Pixel> zeros(static_cast<std::size_t>(shape.channels));
  for (int64_t index = begin; index < end; index += Number::terms) {
    std::vector<Tile<Pixel, Transform>> tiles;
    for (int64_t i = index; i < std::min(index + Number::terms, end); ++i) tiles.emplace_back(images, shape, i, zeros.data());
    for (int64_t channel = 0; channel < shape.channels; channel += kLane) {
      Vector spectra[Number::terms][kFrequencies] = {};
      for (std::size_t i = 0; i < tiles.size(); ++i) analyse<Number, Transform>(tiles[i], channel, spectra[i]);
      float* const start = to.at(0, channel / kPanel, index - first) + channel % kPanel;
      for (int f = 0; f < kFrequencies; ++f) {
        Vector values[Number::terms];
        for (int i = 0; i < Number::terms; ++i) values[i] = spectra[i][f];
        Number::store_across(start + f * to.stride(), values);
      }
    }
  }
}

// Outputs of tiles `begin` to `end` from their spectra.
template <class Number>
void synthesise(Spectra from, Images shape, int64_t begin, int64_t end, typename Number::Pixel* images) {
  for (int64_t tile = begin; tile < end; ++tile) {
    const Corner corner(shape, tile);
    const int64_t height = std::min<int64_t>(kTile, shape.height - corner.top);
    const int64_t width = std::min<int64_t>(kTile, shape.width - corner.left);
    for (int64_t channel = 0; channel < shape.channels; channel += kLane) {
      Vector spectrum[kFrequencies], pixels[kTile * kTile];
      const float* const start = from.at(0, channel / kPanel, tile - begin) + channel % kPanel;
      for (int f = 0; f < kFrequencies; ++f) spectrum[f] = load(start + f * from.stride());
      transform<ToOutputs>(spectrum, pixels);
      for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; ++x)
          Number::store_pixels(images + shape.pixel(corner.image, corner.top + y, corner.left + x) + channel,
                               pixels[y * kTile + x]);
    }
  }
}

// What the rows of a product's left factor are, and so how far apart its words lie from row to row and along the depth.
struct RowsOfTiles {
  static constexpr int across(int terms) { return kPanel / terms; }
  static constexpr int along() { return 1; }
};
struct RowsOfChannels {
  static constexpr int across(int) { return 1; }
  static constexpr int along() { return kPanel; }
};

// `work(first, size)` for groups of so many things, and one by one for those that are left.
template <int size, class Work>
inline void in_groups(int64_t count, Work work) {
  int64_t first = 0;
  for (; first + size <= count; first += size) work(first, std::integral_constant<int, size>());
  for (; first < count; ++first) work(first, std::integral_constant<int, 1>());
}

// A product's right factor, [panels][depth][kPanel] words, and its results, [panels][rows][kPanel]; how far apart panels lie.
struct Right {
  const float* words;
  int64_t leap;
};
struct Result {
  float* sums;
  int64_t leap;
};

// Rows of a product, in `panels` panels of its columns, added to what is there if `add`. The depth is `leaps` times `length`
// words.
template <class Number, class Left, int rows, int panels>
inline void product(const float* left, int64_t leaps, int64_t leap, int64_t length, Right right, bool add, Result to) {
  constexpr int vectors = panels * kPanel / kLane;
  const auto panel = [](int v) { return v * kLane / kPanel; };
  const auto inside = [](int v) { return v * kLane % kPanel; };
  Vector sums[rows][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v)
      sums[r][v] = add ? load(to.sums + panel(v) * to.leap + r * kPanel + inside(v)) : Vector{};
  for (int64_t i = 0; i < leaps; ++i, left += leap)
    for (int64_t d = 0; d < length; ++d, right.words += kPanel) {
      Vector words[vectors];
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) words[v] = load(right.words + panel(v) * right.leap + inside(v));
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        const Vector factor = broadcast(left[r * Left::across(Number::terms) + d * Left::along()]);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) sums[r][v] = Number::multiply_add(factor, words[v], sums[r][v]);
      }
    }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) store(to.sums + panel(v) * to.leap + r * kPanel + inside(v), sums[r][v]);
}

// products = inputs * weights at one frequency; weights are [to / 16][from / terms][16] words. Whole groups of rows are
// computed: what lies behind the last tile is memory of the block that nothing reads.
template <class Number>
void multiply(Spectra inputs, const float* weights, int64_t frequency, int64_t tiles, Spectra products) {
  constexpr int64_t deepest = 16;  // panels: their weights take 16 KiB, half of a first-level cache
  constexpr int length = kPanel / Number::terms;
  const int64_t depth = inputs.channels / kPanel, width = products.channels / kPanel;
  for (int64_t start = 0; start < depth; start += deepest) {
    const auto multiply_panels = [&]<int panels>(int64_t panel, std::integral_constant<int, panels>) {
      const Right right{weights + (panel * depth + start) * length * kPanel, depth * length * kPanel};
      for (int64_t tile = 0; tile < tiles; tile += kRows)
        product<Number, RowsOfTiles, kRows, panels>(inputs.at(frequency, start, tile), std::min(deepest, depth - start),
                                                    inputs.tiles * length, length, right, start > 0,
                                                    {products.at(frequency, panel, tile), products.tiles * kPanel});
    };
    in_groups<kPanels>(width, multiply_panels);
  }
}

// sums = left^T * right at one frequency, added to what is there if `add`; sums are [left / 16][right / 16][16][16].
template <class Number>
void correlate(Spectra left, Spectra right, int64_t frequency, int64_t tiles, bool add, float* sums) {
  const int64_t depth = (tiles + Number::terms - 1) / Number::terms, width = right.channels / kPanel;
  for (int64_t row = 0; row < left.channels / kPanel; ++row) {
    const auto correlate_panels = [&]<int panels>(int64_t column, std::integral_constant<int, panels>) {
      const float* const rows = left.at(frequency, row, 0);
      const Right columns{right.at(frequency, column, 0), right.tiles * kPanel / Number::terms};
      float* const to = sums + (row * width + column) * kPanel * kPanel;
      constexpr int rest = kPanel % kRows;
      for (int r = 0; r + kRows <= kPanel; r += kRows)
        product<Number, RowsOfChannels, kRows, panels>(rows + r, 1, 0, depth, columns, add,
                                                       {to + r * kPanel, kPanel * kPanel});
      if constexpr (rest > 0)
        product<Number, RowsOfChannels, rest, panels>(rows + kPanel - rest, 1, 0, depth, columns, add,
                                                      {to + (kPanel - rest) * kPanel, kPanel * kPanel});
    };
    in_groups<kPanels>(width, correlate_panels);
  }
}

struct Part {
  int64_t begin, end;
  // The `index`th of `parts` of so many things, which stay together in groups.
  Part(int64_t count, int parts, int index, int64_t group = 1)
      : begin(edge(count, parts, index, group)), end(edge(count, parts, index + 1, group)) {}

 private:
  static int64_t edge(int64_t count, int parts, int index, int64_t group) {
    return std::min(count, (count + group - 1) / group * index / parts * group);
  }
};

// `work(index)` in each of so many threads.
template <class Work>
void in_parallel(int threads, Work work) {
  std::vector<std::thread> others;
  for (int index = 1; index < threads; ++index) others.emplace_back(work, index);
  work(0);
  for (auto& other : others) other.join();
}

// Allocated by the calling thread: the C library unmaps what it gave a thread when that thread ends.
using Memory = std::unique_ptr<float[]>;
Memory allocate(int64_t floats) { return Memory(new float[static_cast<std::size_t>(floats)]); }

// Weights into spectra, in the order [36][to / 16][from / terms][16] words that `convolve` reads. `backward`: for the
// convolution from the gradient of the outputs to that of the inputs, where `from` and `to` change places.
template <class Number>
void transform_weights(const float* weights, float* spectra, int64_t from, int64_t to, bool backward, int threads) {
  const int64_t tap = from, of_from = backward ? kTaps * kTaps * from : 1, of_to = backward ? 1 : kTaps * kTaps * from;
  if (backward) std::swap(from, to);
  in_parallel(threads, [=](int index) {
    const Part panels(to / kPanel, threads, index);
    for (int64_t panel = panels.begin; panel < panels.end; ++panel)
      for (int64_t c = 0; c < from; c += Number::terms)
        for (int part = 0; part < kPanel; part += kLane) {
          Vector spectrum[Number::terms][kFrequencies];
          for (int i = 0; i < Number::terms; ++i) {
            Vector taps[kTaps * kTaps];
            const float* const first = weights + (c + i) * of_from + (panel * kPanel + part) * of_to;
            for (int k = 0; k < kTaps * kTaps; ++k)
              taps[k] = gather(first + (backward ? kTaps * kTaps - 1 - k : k) * tap, of_to);
            transform<OfWeights>(taps, spectrum[i]);
          }
          for (int f = 0; f < kFrequencies; ++f) {
            Vector values[Number::terms];
            for (int i = 0; i < Number::terms; ++i) values[i] = spectrum[i][f];
            Number::store_across(spectra + ((f * (to / kPanel) + panel) * from + c) * kPanel / Number::terms + part, values);
          }
        }
  });
}

// Images of `from` channels and the spectra of weights to outputs of `to` channels.
template <class Number>
void convolve(const void* images, const float* weights, void* outputs, int64_t count, int64_t height, int64_t width,
              int64_t from, int64_t to, int threads) {
  using Pixel = typename Number::Pixel;
  const Images inputs{height, width, from}, results{height, width, to};
  // A block's spectra should fit a second-level cache, but all weights are read for each block.
  const int64_t block = kRows * (from * to > 128 * 128 ? 8 : 4);
  const Spectra for_inputs{nullptr, block, from, Number::terms}, for_products{nullptr, block, to, 1};
  const int64_t own = for_inputs.words() + for_products.words();
  const Memory memory = allocate(threads * own);
  in_parallel(threads, [=, &memory](int index) {
    const Part all(count * inputs.tiles(), threads, index, kRows);
    const Spectra of_inputs = for_inputs.placed(memory.get() + index * own);
    const Spectra products = for_products.placed(of_inputs.data + of_inputs.words());
    for (int64_t tile = all.begin; tile < all.end; tile += block) {
      const int64_t last = std::min(tile + block, all.end);
      analyse_rows<Number, OfInputs>(static_cast<const Pixel*>(images), inputs, tile, last, tile, of_inputs);
      for (int f = 0; f < kFrequencies; ++f)
        multiply<Number>(of_inputs, weights + f * from * to / Number::terms, f, last - tile, products);
      synthesise<Number>(products, results, tile, last, static_cast<Pixel*>(outputs));
    }
  });
}

// The gradient of the weights from the images and the gradient of the outputs.
template <class Number>
void differentiate_weights(const void* images, const void* outputs, float* weights, int64_t count, int64_t height,
                           int64_t width, int64_t from, int64_t to, int threads) {
  using Pixel = typename Number::Pixel;
  const Images inputs{height, width, from}, results{height, width, to};
  const int64_t block = 64, all = count * inputs.tiles();
  const Spectra for_inputs{nullptr, block, from, Number::terms}, for_outputs{nullptr, block, to, Number::terms};
  const Memory memory = allocate(for_inputs.words() + for_outputs.words() + kFrequencies * from * to);
  const Spectra of_inputs = for_inputs.placed(memory.get());
  const Spectra of_outputs = for_outputs.placed(of_inputs.data + of_inputs.words());
  float* const sums = of_outputs.data + of_outputs.words();
  std::barrier together(threads);
  in_parallel(threads, [=, &together](int index) {
    const Part frequencies(kFrequencies, threads, index);
    int64_t tile = 0;
    do {
      const int64_t tiles = std::min(block, all - tile);
      const Part own(tiles, threads, index, Number::terms);
      analyse_depth<Number, OfInputs>(static_cast<const Pixel*>(images), inputs, tile + own.begin, tile + own.end, tile,
                                      of_inputs);
      analyse_depth<Number, OfOutputs>(static_cast<const Pixel*>(outputs), results, tile + own.begin, tile + own.end, tile,
                                       of_outputs);
      together.arrive_and_wait();
      for (int64_t f = frequencies.begin; f < frequencies.end; ++f)
        correlate<Number>(of_outputs, of_inputs, f, tiles, tile > 0, sums + f * from * to);
      together.arrive_and_wait();
      tile += block;
    } while (tile < all);
    const Part rows(to, threads, index);
    for (int64_t row = rows.begin; row < rows.end; ++row)
      for (int64_t column = 0; column < from; column += kLane) {
        const int64_t square = row / kPanel * (from / kPanel) + column / kPanel;
        const float* const first = sums + (square * kPanel + row % kPanel) * kPanel + column % kPanel;
        Vector spectrum[kFrequencies], taps[kTaps * kTaps];
        for (int f = 0; f < kFrequencies; ++f) spectrum[f] = load(first + f * from * to);
        transform<ToWeights>(spectrum, taps);
        for (int i = 0; i < kTaps * kTaps; ++i) store(weights + (row * kTaps * kTaps + i) * from + column, taps[i]);
      }
  });
}

}  // namespace

// The same three functions for either format.
#define EXPORT(suffix, Number)                                                                                            \
  extern "C" void transform_weights_##suffix(const float* weights, float* spectra, int64_t from, int64_t to,              \
                                             bool backward, int threads) {                                                \
    transform_weights<Number>(weights, spectra, from, to, backward, threads);                                             \
  }                                                                                                                       \
  extern "C" void convolve_##suffix(const void* images, const float* weights, void* outputs, int64_t count,               \
                                    int64_t height, int64_t width, int64_t from, int64_t to, int threads) {               \
    convolve<Number>(images, weights, outputs, count, height, width, from, to, threads);                                  \
  }                                                                                                                       \
  extern "C" void differentiate_weights_##suffix(const void* images, const void* outputs, float* weights, int64_t count,  \
                                                 int64_t height, int64_t width, int64_t from, int64_t to, int threads) {  \
    differentiate_weights<Number>(images, outputs, weights, count, height, width, from, to, threads);                     \
  }

EXPORT(float32, Float32)
#ifdef __AVX512BF16__
EXPORT(bfloat16, BFloat16)
#endif
