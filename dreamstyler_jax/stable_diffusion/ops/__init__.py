"""Operations whose fastest implementation depends on the device."""
