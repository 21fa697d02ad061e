// 3x3 convolutions of stride 1 and padding 1, and their gradients, by Winograd's minimal filtering F(4x4, 3x3)
// (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308): a tile of 4x4 outputs takes
// 36 multiplications per pair of channels instead of 144.
//
// Images are float32 [count][height][width][channels], weights [to][3][3][from], channels a multiple of 16. What a
// transform makes of a tile, or of weights, is called its spectrum: 36 "frequencies", each a vector over the channels.
// Between the transforms all arithmetic is 36 matrix products. The order of every sum is the same with any number of
// threads.

#include <algorithm>
#include <barrier>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

namespace {

constexpr int kLane = 8;    // floats in a vector
constexpr int kPanel = 16;  // channels that lie together: two vectors
constexpr int kTaps = 3;    // of the weights along an edge
constexpr int kTile = 4;    // outputs along the edge of a tile
constexpr int kEdge = kTile + kTaps - 1;  // inputs along the edge of a tile
constexpr int kFrequencies = kEdge * kEdge;

typedef float Vector __attribute__((vector_size(kLane * sizeof(float)), aligned(alignof(float))));

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Vector*>(to) = value; }
inline Vector broadcast(float value) { return Vector{value, value, value, value, value, value, value, value}; }
inline Vector gather(const float* from, int64_t step) {
  if (step == 1) return load(from);
  return Vector{from[0],        from[step],     from[2 * step], from[3 * step],
                from[4 * step], from[5 * step], from[6 * step], from[7 * step]};
}

// The transforms along one edge: from vectors that lie s apart to vectors that lie t apart.

// A polynomial at 1, -1, 2 and -2, from its even and its odd part at 1 and at 2.
inline void evaluate(Vector even, Vector odd, Vector wide_even, Vector wide_odd, Vector* v, int t) {
  v[t] = even + odd;
  v[2 * t] = even - odd;
  v[3 * t] = wide_even + wide_odd;
  v[4 * t] = wide_even - wide_odd;
}

struct OfInputs {  // B^T
  static constexpr int in = kEdge, out = kEdge;
  static inline void apply(const Vector* d, int s, Vector* v, int t) {
    const Vector even = d[4 * s] - 4.0f * d[2 * s], odd = d[3 * s] - 4.0f * d[s];
    const Vector wide_even = d[4 * s] - d[2 * s], wide_odd = 2.0f * (d[3 * s] - d[s]);
    v[0] = 4.0f * d[0] - 5.0f * d[2 * s] + d[4 * s];
    evaluate(even, odd, wide_even, wide_odd, v, t);
    v[5 * t] = 4.0f * d[s] - 5.0f * d[3 * s] + d[5 * s];
  }
};

struct OfWeights {  // G
  static constexpr int in = kTaps, out = kEdge;
  static inline void apply(const Vector* g, int s, Vector* u, int t) {
    const Vector even = (g[0] + g[2 * s]) * (-1.0f / 6), odd = g[s] * (-1.0f / 6);
    const Vector wide_even = g[0] * (1.0f / 24) + g[2 * s] * (1.0f / 6), wide_odd = g[s] * (1.0f / 12);
    u[0] = g[0] * 0.25f;
    evaluate(even, odd, wide_even, wide_odd, u, t);
    u[5 * t] = g[2 * s];
  }
};

struct ToWeights {  // G^T
  static constexpr int in = kEdge, out = kTaps;
  static inline void apply(const Vector* u, int s, Vector* g, int t) {
    const Vector near = (u[s] + u[2 * s]) * (-1.0f / 6), far = u[3 * s] + u[4 * s];
    g[0] = u[0] * 0.25f + near + far * (1.0f / 24);
    g[t] = (u[2 * s] - u[s]) * (1.0f / 6) + (u[3 * s] - u[4 * s]) * (1.0f / 12);
    g[2 * t] = near + far * (1.0f / 6) + u[5 * s];
  }
};

struct OfOutputs {  // A
  static constexpr int in = kTile, out = kEdge;
  static inline void apply(const Vector* y, int s, Vector* m, int t) {
    const Vector even = y[0] + y[2 * s], odd = y[s] + y[3 * s];
    const Vector wide_even = y[0] + 4.0f * y[2 * s], wide_odd = 2.0f * y[s] + 8.0f * y[3 * s];
    m[0] = y[0];
    evaluate(even, odd, wide_even, wide_odd, m, t);
    m[5 * t] = y[3 * s];
  }
};

struct ToOutputs {  // A^T
  static constexpr int in = kEdge, out = kTile;
  static inline void apply(const Vector* m, int s, Vector* y, int t) {
    const Vector near_sum = m[s] + m[2 * s], near_difference = m[s] - m[2 * s];
    const Vector far_sum = m[3 * s] + m[4 * s], far_difference = m[3 * s] - m[4 * s];
    y[0] = m[0] + near_sum + far_sum;
    y[t] = near_difference + 2.0f * far_difference;
    y[2 * t] = near_sum + 4.0f * far_sum;
    y[3 * t] = near_difference + 8.0f * far_difference + m[5 * s];
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

// Spectra of tiles, [36][panels][tiles][kPanel]: whatever reads them reads memory in its order.
struct Spectra {
  float* data;
  int64_t tiles, channels;

  // Frequencies that are a power of two apart would share a few sets of the cache.
  static int64_t stride(int64_t tiles, int64_t channels) { return tiles * channels + kPanel; }
  static int64_t floats(int64_t tiles, int64_t channels) { return kFrequencies * stride(tiles, channels); }
  float* at(int64_t frequency, int64_t panel, int64_t tile) const {
    return data + frequency * stride(tiles, channels) + (panel * tiles + tile) * kPanel;
  }
};

// Spectra of tiles `begin` to `end`, at their distance from `first`: of the kEdge x kEdge inputs (OfInputs) or the
// kTile x kTile outputs (OfOutputs) of a tile.
template <class Transform>
void analyse(const float* images, Images shape, int64_t begin, int64_t end, int64_t first, Spectra to) {
  constexpr int edge = Transform::in, border = (edge - kTile) / 2;
  for (int64_t tile = begin; tile < end; ++tile) {
    const Corner corner(shape, tile);
    for (int64_t channel = 0; channel < shape.channels; channel += kLane) {
      Vector pixels[edge * edge], spectrum[kFrequencies];
      for (int y = 0; y < edge; ++y)
        for (int x = 0; x < edge; ++x) {
          const int64_t row = corner.top - border + y, column = corner.left - border + x;
          const bool inside = row >= 0 && row < shape.height && column >= 0 && column < shape.width;
          pixels[y * edge + x] = inside ? load(images + shape.pixel(corner.image, row, column) + channel) : Vector{};
        }
      transform<Transform>(pixels, spectrum);
      for (int f = 0; f < kFrequencies; ++f)
        store(to.at(f, channel / kPanel, tile - first) + channel % kPanel, spectrum[f]);
    }
  }
}

// Outputs of tiles `begin` to `end` from their spectra.
void synthesise(Spectra from, Images shape, int64_t begin, int64_t end, float* images) {
  for (int64_t tile = begin; tile < end; ++tile) {
    const Corner corner(shape, tile);
    const int64_t height = std::min<int64_t>(kTile, shape.height - corner.top);
    const int64_t width = std::min<int64_t>(kTile, shape.width - corner.left);
    for (int64_t channel = 0; channel < shape.channels; channel += kLane) {
      Vector spectrum[kFrequencies], pixels[kTile * kTile];
      for (int f = 0; f < kFrequencies; ++f)
        spectrum[f] = load(from.at(f, channel / kPanel, tile - begin) + channel % kPanel);
      transform<ToOutputs>(spectrum, pixels);
      for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; ++x)
          store(images + shape.pixel(corner.image, corner.top + y, corner.left + x) + channel, pixels[y * kTile + x]);
    }
  }
}

// What the rows of a product's left factor are, and so how far apart it lies from row to row and along the depth.
struct RowsOfTiles {
  static constexpr int64_t across = kPanel, along = 1;
};
struct RowsOfChannels {
  static constexpr int64_t across = 1, along = kPanel;
};

// to[rows][kPanel] = left * right, added to what is there if `add`. The depth is `leaps` times `length`; `right` is
// [depth][kPanel]. With six rows, 12 sums, two vectors of `right` and one factor fill 15 of AVX2's 16 registers.
template <class Left, int rows>
inline void product(const float* left, int64_t leaps, int64_t leap, int64_t length, const float* right, bool add,
                    float* to) {
  Vector sums[rows][2];
  for (int r = 0; r < rows; ++r)
    for (int half = 0; half < 2; ++half) sums[r][half] = add ? load(to + r * kPanel + half * kLane) : Vector{};
  for (int64_t i = 0; i < leaps; ++i, left += leap)
    for (int64_t d = 0; d < length; ++d, right += kPanel) {
      const Vector low = load(right), high = load(right + kLane);
#pragma GCC unroll 6
      for (int r = 0; r < rows; ++r) {
        const Vector factor = broadcast(left[r * Left::across + d * Left::along]);
        sums[r][0] += factor * low;
        sums[r][1] += factor * high;
      }
    }
  for (int r = 0; r < rows; ++r)
    for (int half = 0; half < 2; ++half) store(to + r * kPanel + half * kLane, sums[r][half]);
}

// products = inputs * weights at one frequency; weights are [to / 16][from][16].
void multiply(Spectra inputs, const float* weights, int64_t frequency, int64_t tiles, Spectra products) {
  constexpr int64_t deepest = 16;  // panels: their weights take 16 KiB, half of a first-level cache
  const int64_t panels = inputs.channels / kPanel, leap = inputs.tiles * kPanel;
  for (int64_t start = 0; start < panels; start += deepest)
    for (int64_t panel = 0; panel < products.channels / kPanel; ++panel) {
      const int64_t leaps = std::min(deepest, panels - start);
      const float* const right = weights + (panel * inputs.channels + start * kPanel) * kPanel;
      int64_t tile = 0;
      for (; tile + 6 <= tiles; tile += 6)
        product<RowsOfTiles, 6>(inputs.at(frequency, start, tile), leaps, leap, kPanel, right, start > 0,
                                products.at(frequency, panel, tile));
      for (; tile < tiles; ++tile)
        product<RowsOfTiles, 1>(inputs.at(frequency, start, tile), leaps, leap, kPanel, right, start > 0,
                                products.at(frequency, panel, tile));
    }
}

// sums = left^T * right at one frequency, added to what is there if `add`; sums are [left / 16][right / 16][16][16].
void correlate(Spectra left, Spectra right, int64_t frequency, int64_t tiles, bool add, float* sums) {
  for (int64_t row = 0; row < left.channels / kPanel; ++row)
    for (int64_t column = 0; column < right.channels / kPanel; ++column, sums += kPanel * kPanel) {
      const float* const rows = left.at(frequency, row, 0);
      const float* const columns = right.at(frequency, column, 0);
      product<RowsOfChannels, 6>(rows, 1, 0, tiles, columns, add, sums);
      product<RowsOfChannels, 6>(rows + 6, 1, 0, tiles, columns, add, sums + 6 * kPanel);
      product<RowsOfChannels, 4>(rows + 12, 1, 0, tiles, columns, add, sums + 12 * kPanel);
    }
}

struct Part {
  int64_t begin, end;
  Part(int64_t count, int threads, int index) : begin(count * index / threads), end(count * (index + 1) / threads) {}
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

}  // namespace

extern "C" {

// Weights into spectra, in the order [36][to / 16][from][16] that `winograd_convolve` reads. `backward`: for the
// convolution from the gradient of the outputs to that of the inputs, where `from` and `to` change places.
void winograd_weights(const float* weights, float* spectra, int64_t from, int64_t to, bool backward, int threads) {
  const int64_t tap = from, of_from = backward ? kTaps * kTaps * from : 1, of_to = backward ? 1 : kTaps * kTaps * from;
  if (backward) std::swap(from, to);
  in_parallel(threads, [=](int index) {
    const Part panels(to / kPanel, threads, index);
    for (int64_t panel = panels.begin; panel < panels.end; ++panel)
      for (int64_t c = 0; c < from; ++c)
        for (int half = 0; half < kPanel; half += kLane) {
          Vector taps[kTaps * kTaps], spectrum[kFrequencies];
          const float* const first = weights + c * of_from + (panel * kPanel + half) * of_to;
          for (int i = 0; i < kTaps * kTaps; ++i)
            taps[i] = gather(first + (backward ? kTaps * kTaps - 1 - i : i) * tap, of_to);
          transform<OfWeights>(taps, spectrum);
          for (int f = 0; f < kFrequencies; ++f)
            store(spectra + ((f * (to / kPanel) + panel) * from + c) * kPanel + half, spectrum[f]);
        }
  });
}

// Images of `from` channels and the spectra of weights to outputs of `to` channels.
void winograd_convolve(const float* images, const float* weights, float* outputs, int64_t count, int64_t height,
                       int64_t width, int64_t from, int64_t to, int threads) {
  const Images inputs{height, width, from}, results{height, width, to};
  // A block's spectra should fit a second-level cache, but all weights are read for each block.
  const int64_t block = from * to > 128 * 128 ? 66 : 24;
  const int64_t own = Spectra::floats(block, from) + Spectra::floats(block, to);
  const Memory memory = allocate(threads * own);
  in_parallel(threads, [=, &memory](int index) {
    const Part all(count * inputs.tiles(), threads, index);
    float* const start = memory.get() + index * own;
    const Spectra of_inputs{start, block, from}, products{start + Spectra::floats(block, from), block, to};
    for (int64_t tile = all.begin; tile < all.end; tile += block) {
      const int64_t last = std::min(tile + block, all.end);
      analyse<OfInputs>(images, inputs, tile, last, tile, of_inputs);
      for (int f = 0; f < kFrequencies; ++f) multiply(of_inputs, weights + f * from * to, f, last - tile, products);
      synthesise(products, results, tile, last, outputs);
    }
  });
}

// The gradient of the weights from the images and the gradient of the outputs.
void winograd_weight_gradient(const float* images, const float* outputs, float* weights, int64_t count, int64_t height,
                              int64_t width, int64_t from, int64_t to, int threads) {
  const Images inputs{height, width, from}, results{height, width, to};
  const int64_t block = 64, all = count * inputs.tiles();
  const int64_t before = Spectra::floats(block, from), spectra = before + Spectra::floats(block, to);
  const Memory memory = allocate(spectra + kFrequencies * from * to);
  const Spectra of_inputs{memory.get(), block, from}, of_outputs{memory.get() + before, block, to};
  float* const sums = memory.get() + spectra;
  std::barrier together(threads);
  in_parallel(threads, [=, &together](int index) {
    const Part frequencies(kFrequencies, threads, index);
    int64_t tile = 0;
    do {
      const int64_t tiles = std::min(block, all - tile);
      const Part own(tiles, threads, index);
      analyse<OfInputs>(images, inputs, tile + own.begin, tile + own.end, tile, of_inputs);
      analyse<OfOutputs>(outputs, results, tile + own.begin, tile + own.end, tile, of_outputs);
      together.arrive_and_wait();
      for (int64_t f = frequencies.begin; f < frequencies.end; ++f)
        correlate(of_outputs, of_inputs, f, tiles, tile > 0, sums + f * from * to);
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

}
