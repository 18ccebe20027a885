"""Do answers stay when only the wording changes, and change when the facts do?"""
