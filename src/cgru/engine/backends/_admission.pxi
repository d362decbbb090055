# What the core is given, checked against what it will read and write: it trusts every pointer. Callers' mistakes are
# found before, with messages of their own; these are for what nobody passes but by way of private attributes.

cdef void expect(object array, tuple shape, str what, object dtype=np.float32) except *:
    """Raise :class:`ShapeError` unless array is a matrix or vector as the core reads it: that shape and type, in C order."""
    values = array.values if isinstance(array, Stored) else array
    if isinstance(array, Stored) and array.scale is not None:
        expect(array.scale, shape[:1], what + "'s scale")
    if not (isinstance(values, np.ndarray) and values.shape == shape and values.dtype == dtype
            and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>values)):
        found = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise ShapeError(f"{what}: expected {np.dtype(dtype)} of shape {shape} in C order, found {found}")


cdef object dtype_of(int precision, object array):
    """The type of the numbers that a matrix of a precision is held as; int8 has scales, which float32 has not."""
    if isinstance(array, Stored) != (precision != CGRU_FLOAT32) or (
        isinstance(array, Stored) and (array.scale is None) != (precision in (CGRU_BF16, CGRU_FP16))
    ):
        raise ShapeError("weights: they are not held as their precision says")
    return {CGRU_FLOAT32: np.float32, CGRU_BF16: np.uint16, CGRU_FP16: np.float16}.get(precision, np.int8)


cdef inline bint plain(object value, int kind, int ndim) noexcept:
    """Whether value is an aligned, C-ordered array of exactly that type and number of axes."""
    return (
        cnp.PyArray_CheckExact(value)
        and cnp.PyArray_TYPE(<cnp.ndarray>value) == kind
        and cnp.PyArray_NDIM(<cnp.ndarray>value) == ndim
        and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>value)
    )


cdef inline bint strided(cnp.ndarray array, int kind, int ndim, bint adjacent) noexcept:
    """Whether an array of that type and number of axes has strides of whole items, and adjacent ones along the last."""
    cdef int axis
    if cnp.PyArray_TYPE(array) != kind or array.ndim != ndim or not cnp.PyArray_ISBEHAVED_RO(array):
        return False
    if cnp.PyArray_SIZE(array) == 0:
        return True
    for axis in range(ndim):
        if array.strides[axis] % array.itemsize:
            return False
    return not adjacent or array.shape[ndim - 1] <= 1 or array.strides[ndim - 1] == array.itemsize


cdef inline bint flags_fit(object flags, Py_ssize_t rows, Py_ssize_t steps) noexcept:
    """Whether flags is None or (rows, steps) of booleans, one after the other."""
    return flags is None or (
        plain(flags, cnp.NPY_BOOL, 2) and cnp.PyArray_DIM(flags, 0) == rows and cnp.PyArray_DIM(flags, 1) == steps
    )
