"""Operations whose fastest form depends on the device."""
