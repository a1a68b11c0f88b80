// Scratch memory of one thread, reused between calls: grows to the largest request and stays.

struct Scratch {
  uint8_t* data = nullptr;
  size_t size = 0;
  ~Scratch() { free(data); }
  uint8_t* reserve(size_t bytes) {
    if (bytes > size) {
      free(data);
      size = (bytes + 4095) / 4096 * 4096;
      data = static_cast<uint8_t*>(aligned_alloc(64, size));
      if (!data) throw std::bad_alloc();
    }
    return data;
  }
};

// Cuts consecutive aligned arrays from one reservation: first pass (base null) counts, second pass hands out.
struct Carver {
  uint8_t* base = nullptr;
  size_t used = 0;
  template <class T>
  T* take(size_t count) {
    T* p = reinterpret_cast<T*>(base + used);
    used += (count * sizeof(T) + 63) / 64 * 64;
    return p;
  }
};
