// Projections by weights of x's own type.
#include "products.h"

namespace autodeploy {

template <class T>
void linear(const Team& team, Rows<const T> x, Rows<const T> weight, const T* bias, Then<T> then, Gate<T> gate, T* out) {
    Product<T> product(x, weight);
    project(team, product, x.count, weight.count, weight.width * sizeof(T), bias, then, gate, out);
}

template void linear(const Team&, Rows<const float>, Rows<const float>, const float*, Then<float>, Gate<float>, float*);
template void linear(const Team&, Rows<const bf16>, Rows<const bf16>, const bf16*, Then<bf16>, Gate<bf16>, bf16*);

}  // namespace autodeploy
