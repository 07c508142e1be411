// A torch device type of its own on host memory, registered as PrivateUse1.
//
// Every operator runs the CPU's kernel on the same bytes, so that numbers can be compared with the
// CPU's. What differs on an accelerator is checked or counted: tensors of two devices in one
// operator, generators of the host, kernel launches, reads on the host, copies that block, bytes.

#include <ATen/EmptyTensor.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Functions.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>
#include <torch/version.h>

#include <atomic>
#include <chrono>
#include <limits>
#include <map>
#include <mutex>
#include <set>

#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 9
#include <c10/core/CachingDeviceAllocator.h>
#define HAS_STATISTICS
#endif

namespace {

using at::Tensor;
using c10::Device;
using c10::DeviceIndex;
using std::optional;

constexpr auto KIND = c10::DeviceType::PrivateUse1;
constexpr auto KEY = c10::DispatchKey::PrivateUse1;
constexpr int MOST_DEVICES = 16;
constexpr int64_t TOTAL_BYTES = int64_t{16} << 30;

std::atomic<int> shown{2};
DeviceIndex count_devices() { return static_cast<DeviceIndex>(shown.load()); }

// ---- what a device counts ------------------------------------------------------------------

struct Account {
  std::atomic<int64_t> allocated{0}, peak{0}, allocations{0}, limit{TOTAL_BYTES};
  std::atomic<int64_t> launches{0}, reads{0}, uploads{0}, sent{0}, synchronizations{0};
};
Account accounts[MOST_DEVICES];
thread_local DeviceIndex current = 0;
thread_local c10::StreamId streams[MOST_DEVICES];

std::mutex names_lock;
std::map<std::string, int64_t> launches_by_name;

// A function of Python that is called at each wait of the host and at each wrong write, and may raise
// an error there.
std::atomic<bool> is_heard{false};
PyObject* listener = nullptr;

void tell(const char* kind, const std::string& name, DeviceIndex device) {
  if (!is_heard) return;
  pybind11::gil_scoped_acquire gil;
  if (listener == nullptr) return;
  PyObject* answer = PyObject_CallFunction(listener, "ssi", kind, name.c_str(), int{device});
  if (answer == nullptr) {
    python_error error;
    error.persist();
    throw error;
  }
  Py_DECREF(answer);
}

void land(DeviceIndex device, int64_t number);

void count_read(const std::string& name, DeviceIndex device) {
  accounts[device].reads++;
  land(device, std::numeric_limits<int64_t>::max());
  tell("read", name, device);
}

void count_upload(const std::string& name, DeviceIndex device) {
  accounts[device].uploads++;
  tell("upload", name, device);
}

void count_synchronization(const char* name, DeviceIndex device) {
  accounts[device].synchronizations++;
  tell("synchronization", name, device);
}

void count_launch(const std::string& name, DeviceIndex device) {
  accounts[device].launches++;
  std::lock_guard<std::mutex> guard(names_lock);
  launches_by_name[name]++;
}

// ---- memory --------------------------------------------------------------------------------

// The bytes of one storage of a device, which a storage of the host owns.
struct Block {
  c10::Storage host;
  int64_t bytes;
  DeviceIndex device;
};

void release(void* context) {
  auto* block = static_cast<Block*>(context);
  accounts[block->device].allocated -= block->bytes;
  delete block;
}

c10::DataPtr own(c10::Storage host, DeviceIndex device) {
  auto& account = accounts[device];
  const auto bytes = static_cast<int64_t>(host.nbytes());
  const int64_t now = account.allocated += bytes;
  if (now > account.limit) {
    account.allocated -= bytes;
    TORCH_CHECK_WITH(OutOfMemoryError, false, "rehearsal out of memory. Tried to allocate ", bytes,
                     " bytes. Device ", int{device}, " has ", account.limit.load(), " bytes, of which ",
                     now - bytes, " are allocated.");
  }
  account.allocations++;
  int64_t before = account.peak;
  while (now > before && !account.peak.compare_exchange_weak(before, now)) {}
  void* data = host.mutable_data();
  return {data, new Block{std::move(host), bytes, device}, &release, Device(KIND, device)};
}

c10::Storage host_storage(size_t bytes) {
  auto* allocator = c10::GetAllocator(c10::DeviceType::CPU);
  return c10::Storage(c10::Storage::use_byte_size_t(), bytes, allocator, true);
}

#ifdef HAS_STATISTICS
struct Memory final : c10::DeviceAllocator {
  bool initialized() { return true; }
  void emptyCache(c10::MempoolId_t = {0, 0}) {}
  void recordStream(const c10::DataPtr&, c10::Stream) {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(DeviceIndex device) {
    c10::CachingDeviceAllocator::DeviceStats stats;
    auto& account = accounts[device];
    for (auto* bytes : {&stats.allocated_bytes, &stats.reserved_bytes, &stats.active_bytes,
                        &stats.requested_bytes}) {
      (*bytes)[0].current = account.allocated;
      (*bytes)[0].peak = account.peak;
    }
    stats.num_device_alloc = account.allocations;
    return stats;
  }
  void resetAccumulatedStats(DeviceIndex device) { accounts[device].allocations = 0; }
  void resetPeakStats(DeviceIndex device) { accounts[device].peak = accounts[device].allocated.load(); }
  std::pair<size_t, size_t> getMemoryInfo(DeviceIndex device) {
    auto& account = accounts[device];
    return {account.limit - account.allocated, account.limit};
  }
#else
struct Memory final : c10::Allocator {
#endif
  c10::DataPtr allocate(size_t bytes) { return own(host_storage(bytes), current); }
  c10::DeleterFnPtr raw_deleter() const { return nullptr; }
  void copy_data(void* to, const void* from, std::size_t bytes) const { std::memcpy(to, from, bytes); }
};
Memory memory;
REGISTER_ALLOCATOR(KIND, &memory);

// Host memory that copies may read while the host goes on.
std::mutex pinned_lock;
std::map<const char*, size_t> pinned;

void unpin(void* data) {
  {
    std::lock_guard<std::mutex> guard(pinned_lock);
    pinned.erase(static_cast<char*>(data));
  }
  c10::free_cpu(data);
}

bool is_pinned(const void* data) {
  std::lock_guard<std::mutex> guard(pinned_lock);
  const auto* byte = static_cast<const char*>(data);
  auto after = pinned.upper_bound(byte);
  if (after == pinned.begin()) return false;
  --after;
  return byte < after->first + std::max<size_t>(after->second, 1);
}

struct PinnedMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) {
    void* data = c10::alloc_cpu(std::max<size_t>(bytes, 1));
    std::lock_guard<std::mutex> guard(pinned_lock);
    pinned[static_cast<char*>(data)] = bytes;
    return {data, data, &unpin, Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const { return &unpin; }
  void copy_data(void* to, const void* from, std::size_t bytes) const { std::memcpy(to, from, bytes); }
};
PinnedMemory pinned_memory;

// ---- copies in flight --------------------------------------------------------------------------

// A copy from pinned memory that the host has not waited for: a device may not have made it yet, so
// the host may not write there. Such a write shows when the host waits, and the bytes are others.
struct Flight {
  c10::weak_intrusive_ptr<c10::StorageImpl> memory;
  int64_t offset;
  std::string bytes;
  DeviceIndex device;
  int64_t number;
};
std::mutex flights_lock;
std::vector<Flight> flights;
std::atomic<int64_t> last_flight{0};

void begin_flight(const at::Tensor& from, DeviceIndex device) {
  if (!is_heard || !from.is_contiguous()) return;
  const auto* first = static_cast<const char*>(from.storage().data());
  const auto* start = static_cast<const char*>(from.const_data_ptr());
  std::lock_guard<std::mutex> guard(flights_lock);
  flights.push_back({from.storage().getWeakStorageImpl(), start - first,
                     std::string(start, from.nbytes()), device, ++last_flight});
}

// End the flights of a device up to a number, and tell of memory that has changed since.
void land(DeviceIndex device, int64_t number) {
  int changed = 0;
  {
    std::lock_guard<std::mutex> guard(flights_lock);
    std::vector<Flight> left;
    for (auto& flight : flights) {
      if (flight.device != device || flight.number > number) {
        left.push_back(std::move(flight));
        continue;
      }
      // Memory that was freed is not given away before its copies are made.
      auto memory = flight.memory.lock();
      if (!memory.defined()) continue;
      const auto* start = static_cast<const char*>(memory->data()) + flight.offset;
      changed += std::memcmp(start, flight.bytes.data(), flight.bytes.size()) != 0;
    }
    flights.swap(left);
  }
  if (changed) tell("overwriting", "memory of a copy that was not waited for", device);
}

// ---- devices, streams, events ----------------------------------------------------------------

struct Mark {
  std::chrono::steady_clock::time_point time;
  DeviceIndex device;
  int64_t flight;
};

DeviceIndex change_device(DeviceIndex index) {
  const auto before = current;
  if (index >= 0) {
    TORCH_CHECK(index < count_devices(), "rehearsal:", int{index}, " is not there: this process has ",
                int{count_devices()}, " devices");
    current = index;
  }
  return before;
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const { return KIND; }
  Device exchangeDevice(Device device) const { return {KIND, change_device(device.index())}; }
  Device getDevice() const { return {KIND, current}; }
  void setDevice(Device device) const { change_device(device.index()); }
  void uncheckedSetDevice(Device device) const noexcept {
    if (device.index() >= 0) current = device.index();
  }
  DeviceIndex deviceCount() const noexcept { return count_devices(); }

  c10::Stream stream(Device device, c10::StreamId id) const {
    return c10::Stream(c10::Stream::UNSAFE, Device(KIND, device.index() < 0 ? current : device.index()), id);
  }
  c10::Stream getStream(Device device) const {
    return stream(device, streams[device.index() < 0 ? current : device.index()]);
  }
  c10::Stream getDefaultStream(Device device) const { return stream(device, 0); }
  c10::Stream getNewStream(Device device, int = 0) const {
    static std::atomic<int64_t> last{0};
    return stream(device, ++last);
  }
  c10::Stream getStreamFromGlobalPool(Device device, bool = false) const { return getNewStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const {
    const auto before = getStream(stream.device());
    streams[stream.device_index()] = stream.id();
    return before;
  }
  bool queryStream(const c10::Stream&) const { return true; }
  void synchronizeStream(const c10::Stream& stream) const {
    land(stream.device_index(), last_flight);
    count_synchronization("synchronize of a stream", stream.device_index());
  }
  void synchronizeDevice(const DeviceIndex device) const {
    land(device < 0 ? current : device, last_flight);
    count_synchronization("synchronize", device < 0 ? current : device);
  }

  void record(void** event, const c10::Stream& stream, const DeviceIndex, const c10::EventFlag) const {
    if (*event == nullptr) *event = new Mark;
    *static_cast<Mark*>(*event) = {std::chrono::steady_clock::now(), stream.device_index(), last_flight};
  }
  void block(void*, const c10::Stream&) const {}
  bool queryEvent(void* event) const {
    if (const auto* mark = static_cast<Mark*>(event)) land(mark->device, mark->flight);
    return true;
  }
  void synchronizeEvent(void* event) const {
    const auto* mark = static_cast<Mark*>(event);
    if (mark != nullptr) land(mark->device, mark->flight);
    count_synchronization("synchronize of an event", mark ? mark->device : current);
  }
  void destroyEvent(void* event, const DeviceIndex) const noexcept { delete static_cast<Mark*>(event); }
  double elapsedTime(void* first, void* last, const DeviceIndex) const {
    const auto gap = static_cast<Mark*>(last)->time - static_cast<Mark*>(first)->time;
    return std::chrono::duration<double, std::milli>(gap).count();
  }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

// ---- random numbers --------------------------------------------------------------------------

// A generator of the device, which gives the CPU's numbers of the same seed.
struct Numbers final : c10::GeneratorImpl {
  at::Generator host;
  Numbers(DeviceIndex index, at::Generator host)
      : c10::GeneratorImpl(Device(KIND, index < 0 ? current : index), c10::DispatchKeySet(KEY)),
        host(std::move(host)) {}
  void set_current_seed(uint64_t seed) { host.set_current_seed(seed); }
  uint64_t current_seed() const { return host.current_seed(); }
  uint64_t seed() { return host.seed(); }
  void set_offset(uint64_t) { TORCH_CHECK(false, "a generator of 'rehearsal' has no offset"); }
  uint64_t get_offset() const { TORCH_CHECK(false, "a generator of 'rehearsal' has no offset"); }
  void set_state(const c10::TensorImpl& state) { host.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const { return host.unsafeGetGeneratorImpl()->get_state(); }
  Numbers* clone_impl() const { return new Numbers(device().index(), host.clone()); }
};

at::Generator new_numbers(DeviceIndex index) {
  return at::make_generator<Numbers>(index, at::detail::createCPUGenerator());
}

const at::Generator& default_numbers(DeviceIndex index) {
  static const std::vector<at::Generator> all = [] {
    std::vector<at::Generator> made;
    for (DeviceIndex each = 0; each < MOST_DEVICES; each++) made.push_back(new_numbers(each));
    return made;
  }();
  return all.at(index < 0 ? current : index);
}

at::Generator host_numbers(const at::Generator& numbers) {
  TORCH_CHECK(numbers.device().type() == KIND,
              "Expected a 'rehearsal' device type for generator but found '", numbers.device(), "'");
  return static_cast<Numbers*>(numbers.unsafeGetGeneratorImpl())->host;
}

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const { return true; }
  bool isAvailable() const { return count_devices() > 0; }
  bool hasPrimaryContext(DeviceIndex) const { return true; }
  void init() const {}
  DeviceIndex deviceCount() const { return count_devices(); }
  DeviceIndex getCurrentDevice() const { return current; }
  void setCurrentDevice(DeviceIndex index) const { change_device(index); }
  DeviceIndex exchangeDevice(DeviceIndex index) const { return change_device(index); }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const { return change_device(index); }
  const at::Generator& getDefaultGenerator(DeviceIndex index) const { return default_numbers(index); }
  at::Generator getNewGenerator(DeviceIndex index) const { return new_numbers(index); }
  at::Device getDeviceFromPtr(void*) const { return {KIND, current}; }
  bool isPinnedPtr(const void* data) const { return is_pinned(data); }
  c10::Allocator* getPinnedMemoryAllocator() const { return &pinned_memory; }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const {
    auto host = host_storage(bytes);
    std::memcpy(host.mutable_data(), storage.data(), std::min(bytes, storage.nbytes()));
    auto* impl = storage.unsafeGetStorageImpl();
    impl->set_data_ptr_noswap(own(std::move(host), storage.device().index()));
    impl->set_nbytes(bytes);
  }
};

// ---- the same memory as a tensor of the host, and back ----------------------------------------

bool is_here(const Tensor& tensor) { return tensor.defined() && tensor.device().type() == KIND; }

Block& block_of(const c10::Storage& storage) {
  auto* block = storage.data_ptr().cast_context<Block>(&release);
  TORCH_CHECK(block != nullptr, "a storage of rehearsal that rehearsal did not allocate");
  return *block;
}

Tensor tensor_of(c10::Storage storage, c10::DispatchKey key, const Tensor& like) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), like.dtype());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  return made;
}

Tensor host_of(const Tensor& tensor) {
  return tensor_of(block_of(tensor.storage()).host, c10::DispatchKey::CPU, tensor);
}

Tensor here_from(const Tensor& host, DeviceIndex device) {
  auto data = own(host.storage(), device);
  const auto bytes = host.storage().nbytes();
  c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, std::move(data), &memory, true);
  return tensor_of(std::move(storage), KEY, host);
}

// ---- any operator: on the CPU, with the same memory -------------------------------------------

// Operators of which the host needs a result, or its size, to go on.
const std::set<std::string> READS = {
    "aten::nonzero",       "aten::masked_select", "aten::bincount",    "aten::_unique2",
    "aten::unique_dim",    "aten::equal",         "aten::is_nonzero",  "aten::unique_consecutive",
    "aten::_unique",       "aten::repeat_interleave",
};
bool takes_host_indices(const std::string& name) {
  return name == "aten::index" || name.rfind("aten::index_put", 0) == 0 || name == "aten::_index_put_impl_";
}

bool is_mask(const Tensor& tensor) {
  return tensor.scalar_type() == at::kBool || tensor.scalar_type() == at::kByte;
}

// The tensors of one call, each with the tensor of the host that stands for it.
class Call {
 public:
  explicit Call(const c10::FunctionSchema& schema) : schema_(schema) {}

  c10::IValue take(const c10::IValue& value, const std::string& argument) {
    if (value.isTensor()) return take(value.toTensor());
    if (value.isTensorList()) {
      c10::List<Tensor> taken;
      for (const Tensor& tensor : value.toTensorVector()) taken.push_back(take(tensor));
      return taken;
    }
    if (value.isOptionalTensorList()) {
      c10::List<optional<Tensor>> taken;
      for (const optional<Tensor>& tensor : value.toOptionalTensorVector()) {
        taken.push_back(tensor ? optional<Tensor>(take_index(*tensor)) : std::nullopt);
      }
      return taken;
    }
    if (value.isGenerator() && value.toGenerator().defined()) return host_numbers(value.toGenerator());
    if (value.isNone() && argument == "generator") return host_numbers(default_numbers(device()));
    if (value.isDevice() && value.toDevice().type() == KIND) {
      if (device_ < 0) device_ = value.toDevice().index();
      return Device(c10::kCPU);
    }
    return value;
  }

  c10::IValue give(const c10::IValue& value) {
    if (value.isTensor()) return give(value.toTensor());
    if (value.isTensorList()) {
      c10::List<Tensor> given;
      for (const Tensor& tensor : value.toTensorVector()) given.push_back(give(tensor));
      return given;
    }
    return value;
  }

  DeviceIndex device() const { return device_ < 0 ? current : device_; }

  // Count what the call does, before it runs.
  void count(size_t values) {
    const auto& name = schema_.name();
    if (stranger_.defined()) {
      TORCH_CHECK(takes_host_indices(name) && stranger_.is_cpu(),
                  "Expected all tensors to be on the same device, but found at least two devices, rehearsal:",
                  int{device()}, " and ", stranger_.device(), "! (", name, ")");
    }
    // Functional indexing has moved the indices before, and has found those of a mask.
    if (host_index_ && name != "aten::index") count_upload(name + " by indices of the host", device());
    // A mask is filled by one value without its indices.
    if (masked_ && name != "aten::index" && values != 1) count_read(name + " by a mask", device());
    if (READS.count(name)) count_read(name, device());
    count_launch(name, device());
  }

  // Kernels size some of their results: sizes and memory of the device's tensors follow.
  void follow() {
    for (auto& [here, host] : taken_) {
      if (!is_here(here)) continue;
      auto* impl = here.unsafeGetTensorImpl();
      auto* storage = here.storage().unsafeGetStorageImpl();
      if (storage->data_ptr().get() != host.storage().data()) {
        storage->set_data_ptr_noswap(own(host.storage(), here.device().index()));
        storage->set_nbytes(host.storage().nbytes());
      }
      if (impl->sizes() != host.sizes() || impl->strides() != host.strides()) {
        impl->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
      }
    }
  }

 private:
  Tensor take(const Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    if (!is_here(tensor)) {
      if (tensor.dim() > 0) stranger_ = tensor;
      return tensor;
    }
    if (device_ < 0) device_ = tensor.device().index();
    if (tensor.device().index() != device_) stranger_ = tensor;
    for (auto& [here, host] : taken_) {
      if (here.is_same(tensor)) return host;
    }
    taken_.emplace_back(tensor, host_of(tensor));
    return taken_.back().second;
  }

  Tensor take_index(const Tensor& tensor) {
    masked_ = masked_ || (tensor.defined() && is_mask(tensor));
    if (tensor.defined() && !is_here(tensor)) {
      host_index_ = host_index_ || tensor.dim() > 0;
      return tensor;
    }
    return take(tensor);
  }

  Tensor give(const Tensor& host) {
    if (!host.defined()) return host;
    for (auto& [here, taken] : taken_) {
      if (taken.is_same(host)) return here;
    }
    for (auto& [here, taken] : taken_) {
      if (taken.storage().unsafeGetStorageImpl() == host.storage().unsafeGetStorageImpl()) return tensor_of(here.storage(), KEY, host);
    }
    auto made = here_from(host, device());
    taken_.emplace_back(made, host);
    return made;
  }

  const c10::FunctionSchema& schema_;
  DeviceIndex device_ = -1;
  bool masked_ = false, host_index_ = false;
  Tensor stranger_;
  std::vector<std::pair<Tensor, Tensor>> taken_;
};

void compute(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto& arguments = schema.arguments();
  const auto first = stack->size() - arguments.size();
  Call call(schema);
  size_t values = 0;
  for (size_t i = 0; i < arguments.size(); i++) {
    auto& value = (*stack)[first + i];
    if (arguments[i].name() == "values" && value.isTensor()) values = value.toTensor().numel();
    value = call.take(value, arguments[i].name());
  }
  call.count(values);
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  call.follow();
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); i++) {
    (*stack)[i] = call.give((*stack)[i]);
  }
}

// ---- operators that need code of their own ------------------------------------------------------

Tensor empty(c10::IntArrayRef size, optional<at::ScalarType> dtype, optional<at::Layout>,
             optional<Device> device, optional<bool>, optional<at::MemoryFormat> format) {
  c10::DeviceGuard guard(device.value_or(Device(KIND, current)));
  return at::detail::empty_generic(size, &memory, c10::DispatchKeySet(KEY), c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, optional<at::ScalarType> dtype,
                     optional<at::Layout>, optional<Device> device, optional<bool>) {
  c10::DeviceGuard guard(device.value_or(Device(KIND, current)));
  return at::detail::empty_strided_generic(size, stride, &memory, c10::DispatchKeySet(KEY),
                                           c10::dtype_or_default(dtype));
}

Tensor copy_tensor(const Tensor& from, const Tensor& to, bool non_blocking) {
  if (is_here(from) && is_here(to)) {
    count_launch("aten::_copy_from", to.device().index());
  } else {
    const auto& host = is_here(from) ? to : from;
    const auto device = (is_here(from) ? from : to).device().index();
    if (non_blocking && is_pinned(host.storage().data())) {
      accounts[device].sent++;
      if (!is_here(from)) begin_flight(from, device);
    } else if (is_here(from)) {
      count_read("aten::_copy_from", device);
    } else {
      count_upload("aten::_copy_from", device);
    }
  }
  if (to.numel()) (is_here(to) ? host_of(to) : to).copy_(is_here(from) ? host_of(from) : from);
  return to;
}

Tensor copy_and_resize(const Tensor& from, const Tensor& to) {
  if (to.sizes() != from.sizes()) to.resize_(from.sizes());
  return copy_tensor(from, to, false);
}

at::Scalar scalar(const Tensor& tensor) {
  count_read("aten::_local_scalar_dense", tensor.device().index());
  return at::_local_scalar_dense(host_of(tensor));
}

const Tensor& resize(const Tensor& self, c10::IntArrayRef size, optional<at::MemoryFormat> format) {
  c10::DeviceGuard guard(self.device());
  return at::native::resize_(self, size, format);
}

Tensor& set_sized(Tensor& self, at::Storage source, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  c10::DeviceGuard guard(self.device());
  return at::native::set_storage_cpu_(self, std::move(source), offset, size, stride);
}

optional<Tensor> host_if(const optional<Tensor>& tensor) {
  return tensor && tensor->defined() ? optional<Tensor>(host_of(*tensor)) : std::nullopt;
}

void require_here(const char* name, std::initializer_list<const Tensor*> tensors) {
  for (const auto* tensor : tensors) {
    TORCH_CHECK(!tensor->defined() || tensor->device() == (*tensors.begin())->device(),
                "Expected all tensors to be on the same device, but found at least two devices, ",
                (*tensors.begin())->device(), " and ", tensor->device(), "! (", name, ")");
  }
}

Tensor here_or_none(const Tensor& host, DeviceIndex device) {
  return host.defined() ? here_from(host, device) : host;
}

Tensor convolve(const Tensor& x, const Tensor& weight, const optional<Tensor>& bias, c10::SymIntArrayRef stride,
                c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed,
                c10::SymIntArrayRef output_padding, c10::SymInt groups) {
  require_here("aten::convolution", {&x, &weight});
  count_launch("aten::convolution", x.device().index());
  return here_from(at::convolution_symint(host_of(x), host_of(weight), host_if(bias), stride, padding, dilation,
                                          transposed, output_padding, std::move(groups)),
                   x.device().index());
}

std::tuple<Tensor, Tensor, Tensor> convolve_backward(
    const Tensor& outer, const Tensor& x, const Tensor& weight, c10::SymIntArrayRef stride,
    c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed, c10::SymIntArrayRef output_padding,
    c10::SymInt groups, std::array<bool, 3> mask) {
  require_here("aten::convolution_backward", {&x, &weight, &outer});
  const auto device = x.device().index();
  count_launch("aten::convolution_backward", device);
  const std::vector<c10::SymInt> bias = {weight.sym_size(transposed ? 1 : 0)};
  auto [for_x, for_weight, for_bias] = at::convolution_backward_symint(
      host_of(outer), host_of(x), host_of(weight), c10::SymIntArrayRef(bias), stride, padding, dilation, transposed,
      output_padding, std::move(groups), mask);
  return {here_or_none(for_x, device), here_or_none(for_weight, device), here_or_none(for_bias, device)};
}

// Attention is one kernel where the CPU's is one.
int64_t choose_attention(const Tensor& query, const Tensor& key, const Tensor& value, const optional<Tensor>& mask,
                         double dropout, bool is_causal, optional<double> scale, bool enable_gqa) {
  auto host = [](const Tensor& tensor) {
    return host_of(tensor.detach()).requires_grad_(tensor.requires_grad());
  };
  optional<Tensor> host_mask;
  if (mask && mask->defined()) host_mask = host(*mask);
  const auto choice = at::_fused_sdp_choice(host(query), host(key), host(value), host_mask, dropout, is_causal, scale,
                                            enable_gqa);
  const bool one = choice == static_cast<int64_t>(sdp::SDPBackend::flash_attention);
  return static_cast<int64_t>(one ? sdp::SDPBackend::overrideable : sdp::SDPBackend::math);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, c10::SymInt, c10::SymInt, Tensor, Tensor, Tensor> attend(
    const Tensor& query, const Tensor& key, const Tensor& value, const optional<Tensor>& bias, double dropout,
    bool is_causal, bool, optional<double> scale) {
  const auto device = query.device().index();
  require_here("aten::scaled_dot_product_attention", {&query, &key, &value});
  count_launch("aten::scaled_dot_product_attention", device);
  auto [out, sums] = at::_scaled_dot_product_flash_attention_for_cpu(host_of(query), host_of(key), host_of(value),
                                                                     dropout, is_causal, host_if(bias), scale);
  return {here_from(out, device), here_from(sums, device), Tensor(), Tensor(), query.sym_size(2), key.sym_size(2),
          Tensor(), Tensor(), Tensor()};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attend_backward(
    const Tensor& outer, const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& bias,
    std::array<bool, 4>, const Tensor& out, const Tensor& sums, const Tensor&, const Tensor&, c10::SymInt,
    c10::SymInt, double dropout, bool is_causal, const Tensor&, const Tensor&, optional<double> scale) {
  const auto device = query.device().index();
  require_here("aten::scaled_dot_product_attention_backward", {&query, &key, &value, &outer});
  count_launch("aten::scaled_dot_product_attention_backward", device);
  auto [for_query, for_key, for_value] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
      host_of(outer), host_of(query), host_of(key), host_of(value), host_of(out), host_of(sums), dropout, is_causal,
      host_if(bias), scale);
  return {here_from(for_query, device), here_from(for_key, device), here_from(for_value, device), Tensor()};
}

// Functions on lists are one launch on accelerators; by default each would run tensor by tensor.
void register_lists() {
  static std::vector<torch::Library> kept;
  auto& library = kept.emplace_back(torch::Library::IMPL, "aten", KEY, __FILE__, __LINE__);
  for (const auto& name : c10::Dispatcher::singleton().getAllOpNames()) {
    if (name.name.rfind("aten::_foreach_", 0) != 0) continue;
    const auto full = name.overload_name.empty() ? name.name : name.name + "." + name.overload_name;
    library.impl(full.c_str(), torch::CppFunction::makeFromBoxedFunction<&compute>());
  }
}

}  // namespace

namespace at::native {
REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &choose_attention);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&compute>());
}
TORCH_LIBRARY_IMPL(_, AutogradPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFallthrough());
}
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_tensor);
  m.impl("_copy_from_and_resize", &copy_and_resize);
  m.impl("_local_scalar_dense", &scalar);
  m.impl("resize_", &resize);
  m.impl("set_.source_Storage_storage_offset", &set_sized);
  m.impl("set_.source_Storage", static_cast<Tensor& (*)(Tensor&, at::Storage)>(&at::native::set_));
  m.impl("set_.source_Tensor", &at::native::set_tensor_);
  // Views launch nothing.
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("unfold", &at::native::unfold);
  m.impl("view_as_real", &at::native::view_as_real);
  m.impl("view_as_complex", &at::native::view_as_complex);
  m.impl("convolution_overrideable", &convolve);
  m.impl("convolution_backward_overrideable", &convolve_backward);
  m.impl("_scaled_dot_product_fused_attention_overrideable", &attend);
  m.impl("_scaled_dot_product_fused_attention_overrideable_backward", &attend_backward);
}

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFallthrough());
}
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  using namespace at;
#define IN_16_BITS(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
  AT_FORALL_LOWER_PRECISION_FP(IN_16_BITS)
#define IN_FLOAT32(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
  AT_FORALL_FP32(IN_FLOAT32)
#define OUT_OF_FLOAT32(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
  AT_FORALL_FP32_SET_OPT_DTYPE(OUT_OF_FLOAT32)
#define PROMOTED(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)
  AT_FORALL_PROMOTE(PROMOTED)
  AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE(KERNEL_DIFFERENT_REDISPATCH_SIGNATURE_PRIVATEUSEONE)
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
  register_lists();
  m.def("device_count", [] { return int{count_devices()}; });
  m.def("show_devices", [](int count) { return shown.exchange(std::min(std::max(count, 0), MOST_DEVICES)); });
  m.def("current_device", [] { return int{current}; });
  m.def("set_device", [](int index) { change_device(static_cast<DeviceIndex>(index)); });
  m.def("default_generator", [](int index) { return default_numbers(static_cast<DeviceIndex>(index)); });
  m.def("counts", [](int index) {
    auto& a = accounts[index];
    return std::map<std::string, int64_t>{
        {"launches", a.launches}, {"reads", a.reads}, {"uploads", a.uploads}, {"sent", a.sent},
        {"synchronizations", a.synchronizations}, {"allocated", a.allocated}, {"peak", a.peak},
        {"limit", a.limit}};
  });
  m.def("launches_by_name", [] {
    std::lock_guard<std::mutex> guard(names_lock);
    return launches_by_name;
  });
  m.def("reset_counts", [](int index) {
    auto& a = accounts[index];
    a.launches = a.reads = a.uploads = a.sent = a.synchronizations = 0;
  });
  m.def("reset_names", [] {
    std::lock_guard<std::mutex> guard(names_lock);
    launches_by_name.clear();
  });
  m.def("reset_peak", [](int index) { accounts[index].peak = accounts[index].allocated.load(); });
  m.def("set_limit", [](int index, int64_t bytes) { accounts[index].limit = bytes ? bytes : TOTAL_BYTES; });
  m.def("listen", [](pybind11::object called) {
    {
      std::lock_guard<std::mutex> guard(flights_lock);
      flights.clear();
    }
    PyObject* before = listener;
    listener = called.is_none() ? nullptr : called.release().ptr();
    is_heard = listener != nullptr;
    return before ? pybind11::reinterpret_steal<pybind11::object>(before) : pybind11::none();
  });
}
