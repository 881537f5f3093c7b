"""Operations on arrays: convolution in several forms, pooling, products of int8."""
