"""Operations on arrays: convolution in several forms, pooling, and backward passes in int8."""
