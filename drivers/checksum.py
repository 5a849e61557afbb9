"""Checksums as pure functions."""


def crc8_sensirion(data: bytes) -> int:
    """CRC-8 of one Sensirion word: polynomial 0x31, initial 0xFF, not reflected (interface description SCD30)."""
    crc = 0xFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1) ^ 0x31 if crc & 0x80 else crc << 1
    return crc & 0xFF


def crc16_modbus(data: bytes) -> int:
    """CRC-16 of a Modbus RTU frame: polynomial 0xA001 (reflected), initial 0xFFFF (Modbus over Serial Line 1.02)."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
    return crc
