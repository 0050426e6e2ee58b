// The device of pretend_gpu.py, which says what it is and compiles this file.
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/op_registration/adaption.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/native/DispatchStub.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>

namespace {
using at::Tensor;
using torch::jit::Stack;
const c10::Device GPU(c10::kCUDA, 0), CPU(c10::kCPU);
using std::string;

// ---- what is counted -------------------------------------------------------------------------------------------
std::mutex lock;
int64_t allocated = 0, peak = 0, limit = 0, stops = 0;
bool there = false;  // whether the GPU is installed
std::map<string, int64_t> widened;  // operations that the CPU has no float16 kernel for: computed in float32

void book(int64_t bytes) {
  std::lock_guard<std::mutex> guard(lock);
  if (bytes > 0 && limit > 0 && allocated + bytes > limit)
    TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate ", bytes / 1048576.0, " MiB. ",
                     "GPU 0 has a total capacity of ", limit / 1073741824.0, " GiB (pretend).");
  allocated += bytes;
  peak = std::max(peak, allocated);
}

// ---- memory ----------------------------------------------------------------------------------------------------
struct Block { void* data; int64_t bytes; };
void free_block(void* context) {
  auto* block = static_cast<Block*>(context);
  book(-block->bytes);
  std::free(block->data);
  delete block;
}
struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (!bytes) return {nullptr, nullptr, &free_block_of_nothing, GPU};
    book(bytes);
    auto* block = new Block{nullptr, static_cast<int64_t>(bytes)};
    TORCH_CHECK(posix_memalign(&block->data, 64, bytes) == 0, "no memory");
    std::memset(block->data, 0x7f, bytes);  // uninitialised memory looks like it: a large number in every format
    return {block->data, block, &free_block, GPU};
  }
  static void free_block_of_nothing(void*) {}
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
} memory;

// Pinned memory of the host is ordinary memory that remembers where it lies.
std::map<const char*, size_t> pinned;
void free_pinned(void* data) {
  std::lock_guard<std::mutex> guard(lock);
  pinned.erase(static_cast<char*>(data));
  std::free(data);
}
struct PinnedMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = nullptr;
    TORCH_CHECK(posix_memalign(&data, 64, std::max<size_t>(bytes, 1)) == 0, "no memory");
    std::lock_guard<std::mutex> guard(lock);
    pinned[static_cast<char*>(data)] = bytes;
    return {data, data, &free_pinned, CPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_pinned; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
} pinned_memory;
bool is_pinned(const void* data) {
  std::lock_guard<std::mutex> guard(lock);
  auto after = pinned.upper_bound(static_cast<const char*>(data));
  if (after == pinned.begin()) return false;
  --after;
  return static_cast<const char*>(data) < after->first + std::max<size_t>(after->second, 1);
}

struct Held { c10::Storage storage; int64_t bytes; };
void free_held(void* context) {
  auto* held = static_cast<Held*>(context);
  book(-held->bytes);
  delete held;
}

// ---- the device, its guard and its hooks -----------------------------------------------------------------------
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::kCUDA; }
  static c10::Device checked(c10::Device d) {
    TORCH_CHECK(d.index() <= 0, "CUDA error: invalid device ordinal");
    return d;
  }
  c10::Device exchangeDevice(c10::Device d) const override { checked(d); return GPU; }
  c10::Device getDevice() const override { return GPU; }
  void setDevice(c10::Device d) const override { checked(d); }
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  static c10::Stream only() { return c10::Stream(c10::Stream::DEFAULT, GPU); }
  c10::Stream getStream(c10::Device) const override { return only(); }
  c10::Stream getDefaultStream(c10::Device) const override { return only(); }
  c10::Stream getStreamFromGlobalPool(c10::Device, bool) const override { return only(); }
  c10::Stream getNewStream(c10::Device, int) const override { return only(); }
  c10::Stream exchangeStream(c10::Stream) const override { return only(); }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
  double elapsedTime(void*, void*, const c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

// A counter-based generator like CUDA's: every operation draws from its own place of the stream of a seed.
struct Generator final : c10::GeneratorImpl {
  uint64_t seed_ = c10::default_rng_seed_val, offset_ = 0;
  Generator() : GeneratorImpl(GPU, c10::DispatchKeySet(c10::DispatchKey::CUDA)) {}
  void set_current_seed(uint64_t seed) override { seed_ = seed; offset_ = 0; }
  void set_offset(uint64_t offset) override { offset_ = offset; }
  uint64_t get_offset() const override { return offset_; }
  uint64_t current_seed() const override { return seed_; }
  uint64_t seed() override { set_current_seed(c10::detail::getNonDeterministicRandom()); return seed_; }
  void set_state(const c10::TensorImpl& state) override {
    at::detail::check_rng_state(state);
    TORCH_CHECK(state.numel() == 16, "RNG state is wrong size");
    std::memcpy(&seed_, state.data(), 8);
    std::memcpy(&offset_, static_cast<const char*>(state.data()) + 8, 8);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    auto state = at::detail::empty_cpu({16}, at::kByte);
    std::memcpy(state.data_ptr(), &seed_, 8);
    std::memcpy(static_cast<char*>(state.data_ptr()) + 8, &offset_, 8);
    return at::Tensor(state).getIntrusivePtr();
  }
  Generator* clone_impl() const override {
    auto* copy = new Generator();
    copy->seed_ = seed_; copy->offset_ = offset_;
    return copy;
  }
  at::Generator next() {  // what the CPU draws from in place of the GPU, for one operation
    std::lock_guard<std::mutex> guard(mutex_);
    uint64_t z = seed_ + 0x9e3779b97f4a7c15ULL * (offset_ + 1);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    offset_ += 4;
    return at::detail::createCPUGenerator(z ^ (z >> 31));
  }
};
const at::Generator& default_generator() {
  static at::Generator generator = at::make_generator<Generator>();
  return generator;
}

struct Hooks final : at::CUDAHooksInterface {
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasCUDART() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override { return default_generator(); }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::make_generator<Generator>(); }
  c10::Device getDeviceFromPtr(void*) const override { return GPU; }
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_memory; }
  c10::Allocator* getCUDADeviceAllocator() const override { return &memory; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex current_device() const override { return 0; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  int getNumGPUs() const override { return 1; }
  void deviceSynchronize(c10::DeviceIndex) const override {}
};
// torch made its own hooks, which say that there is no CUDA, when it was imported. Neither they nor ours have members:
// exchanging the tables of their functions exchanges one for the other, and later back again.
void exchange_hooks(bool ours) {
  there = ours;
  static Hooks made;
  static void* const theirs = *reinterpret_cast<void* const*>(&at::detail::getCUDAHooks());
  void* const table = ours ? *reinterpret_cast<void* const*>(&made) : theirs;
  *reinterpret_cast<void**>(const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks())) = table;
}

// ---- a tensor seen from the other side -------------------------------------------------------------------------
Tensor on_cpu(const Tensor& gpu) {  // the same memory, as a CPU tensor
  const auto& old = gpu.storage();
  c10::Storage storage(c10::Storage::use_byte_size_t(), old.nbytes(),
                       c10::DataPtr(const_cast<void*>(old.data()), CPU), c10::GetAllocator(c10::kCPU), true);
  auto cpu = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), gpu.dtype());
  cpu.unsafeGetTensorImpl()->set_sizes_and_strides(gpu.sizes(), gpu.strides(), gpu.storage_offset());
  if (gpu.is_conj()) cpu._set_conj(true);
  if (gpu.is_neg()) cpu._set_neg(true);
  return cpu;
}

c10::Storage storage_on_gpu(const c10::Storage& cpu) {
  int64_t bytes = cpu.nbytes();
  book(bytes);
  c10::DataPtr data(const_cast<void*>(cpu.data()), new Held{cpu, bytes}, &free_held, GPU);
  return c10::Storage(c10::Storage::use_byte_size_t(), bytes, std::move(data), &memory, true);
}

Tensor gpu_tensor(c10::Storage storage, const Tensor& like) {
  auto gpu = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CUDA), like.dtype());
  gpu.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  if (like.is_conj()) gpu._set_conj(true);
  if (like.is_neg()) gpu._set_neg(true);
  return gpu;
}

// Operations that accept no CPU number beside GPU tensors; the others follow TensorIterator, which does.
const std::set<string> strict = {
  "aten::embedding", "aten::embedding_dense_backward", "aten::index_select", "aten::gather", "aten::scatter_",
  "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::nll_loss_forward", "aten::nll_loss_backward",
  "aten::native_layer_norm", "aten::masked_scatter_", "aten::masked_scatter", "aten::_fused_adamw_", "aten::cat",
  "aten::_amp_foreach_non_finite_check_and_unscale_", "aten::_amp_update_scale_", "aten::masked_select"};
const std::set<string> products = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::addmv", "aten::dot"};
// Operations whose result the host must wait for, because its value or its size is needed at once.
const std::set<string> waiting = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2",
                                  "aten::equal", "aten::bincount"};
const std::set<string> indexing = {"aten::index", "aten::_index_put_impl_", "aten::index_put", "aten::index_put_"};

// One call of the CPU on behalf of the GPU: what was lent to it, and how its answers come back.
struct Loan {
  struct Pair { Tensor gpu, cpu; const void* data; Tensor narrow; bool written; };
  std::vector<Pair> pairs;
  std::vector<std::pair<const void*, c10::Storage>> made;
  bool wide = false;  // float16 and bfloat16 become float32 for the time of the call

  Tensor lend(const Tensor& t, bool written) {
    if (!t.defined() || !t.is_cuda()) return t;
    TORCH_CHECK(t.layout() == at::kStrided, "pretend_gpu: only strided tensors");
    for (auto& pair : pairs)
      if (pair.gpu.is_same(t)) { pair.written |= written; return pair.cpu; }
    Tensor cpu = on_cpu(t), narrow;
    if (wide && (t.scalar_type() == at::kHalf || t.scalar_type() == at::kBFloat16)) {
      narrow = cpu;
      cpu = cpu.to(at::kFloat);
    }
    pairs.push_back({t, cpu, cpu.storage().data(), narrow, written});
    return cpu;
  }

  Tensor back(const Tensor& t, std::optional<at::ScalarType> type) {
    if (!t.defined()) return t;
    for (auto& pair : pairs)
      if (pair.cpu.is_same(t)) return pair.gpu;
    for (auto& pair : pairs)  // a view of an argument
      if (!pair.narrow.defined() && pair.data && t.storage().data() == pair.data &&
          pair.cpu.storage().data() == pair.data)
        return gpu_tensor(pair.gpu.storage(), t);
    Tensor result = wide && type && t.scalar_type() == at::kFloat ? t.to(*type) : t;
    for (auto& [data, storage] : made)
      if (data && data == result.storage().data()) return gpu_tensor(storage, result);
    auto storage = storage_on_gpu(result.storage());
    made.emplace_back(result.storage().data(), storage);
    return gpu_tensor(storage, result);
  }

  void settle() {  // arguments that were resized, or computed in a wider format
    for (auto& pair : pairs) {
      if (!pair.written) continue;
      auto* impl = pair.gpu.unsafeGetTensorImpl();
      if (pair.narrow.defined()) {
        TORCH_CHECK(pair.narrow.sizes() == pair.cpu.sizes(), "pretend_gpu: a resized half-precision output");
        pair.narrow.copy_(pair.cpu);
        continue;
      }
      if (pair.cpu.storage().data() != pair.data) {
        auto fresh = storage_on_gpu(pair.cpu.storage());
        auto data = fresh.unsafeGetStorageImpl()->set_data_ptr(c10::DataPtr(nullptr, GPU));
        auto* storage = pair.gpu.storage().unsafeGetStorageImpl();
        storage->set_data_ptr_noswap(std::move(data));
        storage->set_nbytes(pair.cpu.storage().nbytes());
      }
      if (pair.gpu.sizes() != pair.cpu.sizes() || pair.gpu.strides() != pair.cpu.strides())
        impl->set_sizes_and_strides(pair.cpu.sizes(), pair.cpu.strides(), pair.cpu.storage_offset());
    }
  }
};

template <typename Visit>
void each_tensor(const c10::IValue& value, Visit visit) {
  if (value.isTensor()) visit(value.toTensor());
  else if (value.isTensorList()) for (const Tensor& t : value.toTensorVector()) visit(t);
  else if (value.isOptionalTensorList())
    for (const std::optional<Tensor>& t : value.toOptionalTensorVector()) { if (t) visit(*t); }
}

void check_devices(const string& name, const Stack& stack, size_t from) {
  for (size_t i = from; i < stack.size(); ++i) {
    bool indices = indexing.count(name) && !stack[i].isTensor();
    each_tensor(stack[i], [&](const Tensor& t) {
      if (!t.defined() || t.is_cuda() || indices) return;
      if (t.is_cpu() && t.dim() == 0 && !strict.count(name)) return;
      TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and ",
                  t.device(), "! (when checking argument ", i - from, " in method ", name, ")");
    });
    if (stack[i].isTensor() && products.count(name) && stack[i].toTensor().defined())  // the CPU multiplies integers
      TORCH_CHECK(!at::isIntegralType(stack[i].toTensor().scalar_type(), true), "\"addmm_cuda\" not implemented for '",
                  stack[i].toTensor().scalar_type(), "'");
    if (stack[i].isGenerator()) {
      auto kind = stack[i].toGenerator().device().type();
      TORCH_CHECK(kind == c10::kCUDA, "Expected a 'cuda' device type for generator but found '", kind, "'");
    }
  }
}

void compute(const c10::OperatorHandle& op, Stack* stack, const Stack& given, size_t from, bool wide) {
  const auto& schema = op.schema();
  Loan loan;
  loan.wide = wide;
  std::optional<at::ScalarType> narrow;
  for (size_t i = 0; i < given.size(); ++i) {
    const auto& argument = schema.arguments()[i];
    bool written = argument.alias_info() && argument.alias_info()->isWrite();
    c10::IValue value = given[i];
    each_tensor(value, [&](const Tensor& t) {
      if (t.defined() && (t.scalar_type() == at::kHalf || t.scalar_type() == at::kBFloat16)) narrow = t.scalar_type();
    });
    if (value.isTensor()) {
      value = loan.lend(value.toTensor(), written);
    } else if (value.isTensorList()) {
      auto list = value.toTensorVector();
      for (auto& t : list) t = loan.lend(t, written);
      value = c10::List<Tensor>(list);
    } else if (value.isOptionalTensorList()) {
      auto list = value.toOptionalTensorVector();
      for (auto& t : list) if (t) t = loan.lend(*t, written);
      value = c10::IValue(c10::List<std::optional<Tensor>>(list));
    } else if (value.isDevice() && value.toDevice().is_cuda()) {
      value = CPU;
    } else if (argument.type()->isSubtypeOf(*c10::OptionalType::create(c10::GeneratorType::get()))) {
      auto generator = value.isGenerator() ? value.toGenerator() : default_generator();
      value = static_cast<Generator*>(generator.unsafeGetGeneratorImpl())->next();
    }
    stack->push_back(value);
  }
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  loan.settle();
  for (size_t i = from; i < stack->size(); ++i) {
    auto& value = (*stack)[i];
    if (value.isTensor()) {
      value = loan.back(value.toTensor(), narrow);
    } else if (value.isTensorList()) {
      auto list = value.toTensorVector();
      for (auto& t : list) t = loan.back(t, narrow);
      value = c10::List<Tensor>(list);
    }
  }
}

void fallback(const c10::OperatorHandle& op, Stack* stack) {
  const auto& schema = op.schema();
  const string& name = schema.name();
  size_t from = stack->size() - schema.arguments().size();
  check_devices(name, *stack, from);
  if (waiting.count(name)) ++stops;
  Stack given(stack->begin() + from, stack->end());
  stack->erase(stack->begin() + from, stack->end());
  // softmax of half precision into float32 is one kernel on CUDA and absent on the CPU
  bool widening = (name == "aten::_softmax" || name == "aten::_log_softmax") && given[2].toBool();
  if (widening) {
    given[0] = given[0].toTensor().to(at::kFloat);
    given[2] = false;
  }
  try {
    compute(op, stack, given, from, false);
  } catch (const std::exception& error) {
    string text = error.what();
    bool missing = text.find("not implemented for 'Half'") != string::npos ||
                   text.find("not implemented for 'BFloat16'") != string::npos ||
                   text.find("not supported on CPU") != string::npos;
    if (!missing) throw;
    { std::lock_guard<std::mutex> guard(lock); ++widened[name]; }
    stack->resize(from);
    compute(op, stack, given, from, true);
  }
}

// ---- what is no computation: making tensors, views of them, copies between the two sides -------------------------
Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> type, std::optional<at::Layout>,
             std::optional<at::Device>, std::optional<bool> pin, std::optional<at::MemoryFormat> format) {
  TORCH_CHECK(there, "Torch not compiled with CUDA enabled (the pretend GPU was taken out)");
  TORCH_CHECK(!pin || !*pin, "Only dense CPU tensors can be pinned");
  return at::detail::empty_generic(size, &memory, c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                   c10::dtype_or_default(type), format);
}
Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> type,
                     std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  TORCH_CHECK(there, "Torch not compiled with CUDA enabled (the pretend GPU was taken out)");
  return at::detail::empty_strided_generic(size, stride, &memory, c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                           c10::dtype_or_default(type));
}
Tensor& copy_(Tensor& self, const Tensor& source, bool non_blocking) {
  if (!self.is_cuda()) ++stops;
  Tensor to = self.is_cuda() ? on_cpu(self) : self, from = source.is_cuda() ? on_cpu(source) : source;
  to.copy_(from);
  return self;
}
Tensor& set_empty(Tensor& self) {
  return self.set_(c10::Storage(c10::Storage::use_byte_size_t(), 0, &memory, true), 0, {0}, {});
}
std::tuple<Tensor, Tensor> native_dropout(const Tensor& input, double p, std::optional<bool> train) {
  if (train && !*train) return {input.clone(), at::ones_like(input, input.options().dtype(at::kBool))};
  auto mask = at::empty_like(input, input.options().dtype(at::kBool), at::MemoryFormat::Contiguous);
  mask.bernoulli_(1 - p);
  return {input.mul(mask).mul_(p < 1 ? 1 / (1 - p) : 0.0), mask};
}
Tensor softmax_backward(const Tensor& grad, const Tensor& output, int64_t dim, at::ScalarType type, bool log) {
  Tensor g = on_cpu(grad), y = on_cpu(output);
  Tensor result = log ? at::_log_softmax_backward_data(g, y, dim, g.scalar_type())
                      : at::_softmax_backward_data(g, y, dim, g.scalar_type());
  result = result.to(type);
  return gpu_tensor(storage_on_gpu(result.storage()), result);
}
Tensor softmax_backward_data(const Tensor& g, const Tensor& y, int64_t dim, at::ScalarType type) {
  TORCH_CHECK(g.is_cuda() && y.is_cuda(), "Expected all tensors to be on the same device");
  return softmax_backward(g, y, dim, type, false);
}
Tensor log_softmax_backward_data(const Tensor& g, const Tensor& y, int64_t dim, at::ScalarType type) {
  TORCH_CHECK(g.is_cuda() && y.is_cuda(), "Expected all tensors to be on the same device");
  return softmax_backward(g, y, dim, type, true);
}
bool is_set_to(const Tensor& a, const Tensor& b) {
  return a.storage().is_alias_of(b.storage()) && a.storage_offset() == b.storage_offset() && a.sizes() == b.sizes() &&
         a.strides() == b.strides();
}
int64_t mathematical_attention(const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, double, bool,
                               std::optional<double>, bool) {
  return 0;
}
at::native::RegisterCUDADispatch<at::native::_fused_sdp_choice_stub_DECLARE_DISPATCH_type>
    attention(at::native::_fused_sdp_choice_stub, &mathematical_attention);

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }
TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("copy_", &copy_);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", static_cast<Tensor (*)(const Tensor&, c10::IntArrayRef)>(&at::native::view));
  m.impl("view_as_real", &at::native::view_as_real);
  m.impl("view_as_complex", &at::native::view_as_complex);
  m.impl("unfold", &at::native::unfold);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("resize_", &at::native::resize_);
  m.impl("set_.source_Storage", static_cast<Tensor& (*)(Tensor&, c10::Storage)>(&at::native::set_));
  m.impl("set_.source_Storage_storage_offset", &at::native::set_storage_cpu_);
  m.impl("set_.source_Tensor", &at::native::set_tensor_);
  m.impl("set_", &set_empty);
  m.impl("is_set_to", &is_set_to);
  m.impl("native_dropout", &native_dropout);
  m.impl("_softmax_backward_data", &softmax_backward_data);
  m.impl("_log_softmax_backward_data", &log_softmax_backward_data);
}
}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  c10::SetAllocator(c10::kCUDA, &memory, 1);
  m.def("exchange_hooks", &exchange_hooks);
  m.def("default_generator", [] { return default_generator(); });
  m.def("allocated", [] { return allocated; });
  m.def("peak", [] { return peak; });
  m.def("reset_peak", [] { peak = allocated; });
  m.def("set_limit", [](int64_t bytes) { limit = bytes; });
  m.def("stops", [] { return stops; });
  m.def("widened", [] { return widened; });
}
