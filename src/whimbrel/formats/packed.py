"""PackedTensor: one weight matrix in the layout that the kernels read.

A weight ``W`` has shape ``[N, K]``: N outputs, K inputs. Rows are cut into *row blocks* of 16, because
16 fp32 lanes are one AVX-512 register (two AVX2, four NEON); N is padded with zero rows. NB = ceil(N / 16).

| layout | codes                  | scales            | mins              | value of a code                 |
|--------|------------------------|-------------------|-------------------|---------------------------------|
| f32    | float32 [NB, K, 16]    | -                 | -                 | itself                          |
| f16    | float16 [NB, K, 16]    | -                 | -                 | itself                          |
| bf16   | uint16 [NB, K/2, 16, 2]| -                 | -                 | bf16 bits; pairs along K        |
| q8     | uint8 [NB, K/4, 16, 4] | f16 [NB, K/g, 16] | f16 or none       | scale * (code - 128) [+ min]    |
| q4     | uint8 [NB, K/8, 16, 4] | f16 [NB, K/g, 16] | f16 or none       | scale * (code - 8), or          |
|        |                        |                   |                   | scale * code + min with mins    |

One 64-byte line of q4 holds 16 rows x 8 inputs: byte ``b`` of row ``r`` carries input ``8j + b`` in its low
nibble and ``8j + 4 + b`` in its high one. One line of q8 holds 16 rows x 4 inputs. So a row block is one
sequential stream and a line feeds one (q8) or two (q4) 4-way integer dot products.
For q8 with mins the value is ``scale * (code - 128) + min`` all the same.
Groups are 16, 32, 64 or 128 inputs; K is a multiple of the group, and of 32 for q4 and q8.
Row blocks may be strided (``codes.strides[0]`` free, the rest contiguous), so that two matrices can interleave.
"""

ROWS_PER_BLOCK = 16
