//! Keys and tokens made by OpenSSL: `openssl genpkey` and `openssl dgst -sign` (`pkeyutl -rawin` for Ed25519) over
//! `{"alg":ALGORITHM,"typ":"JWT","kid":KEY}` and `{"sub":"alice","exp":1700003600}`. The private halves are gone.

use super::algorithm::Algorithm;

pub(super) const RSA: &str = "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAxMAcS8cQ/Zu4YfTZSmJH\n1NsmapEjGUVPB+Mx/m569WnjEiy+ByBdxMgyhSw81AYua4HjzE1LIcvBC//dJhMn\nuKKuJVrEzJspVzn23Tj/dCU9sObXi9tfTGx2+GQg/zNgxads/UFZek6+fgaFU1sy\naYfW6bwwzkY4yZZAG1+EvjAgyYsU6NlNBG76BrQkkYsOiICVQQfXJCRp8tPokLlJ\nvEO68S4oHje3VAjVlNFPYO9NAdgvGAcfIOzfNvNAKCYy6D8nYIgAI8XFR1PYfP6/\nLAIFIJOuTZw+suaTq8q+qA0wEQyL32del0/fhuIbKJq2GZVSjHP5W+rNIBQR1fOz\njQIDAQAB\n-----END PUBLIC KEY-----\n";
pub(super) const P256: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEr0K7PVJ4iy2kw+3pnmb9y4PB1XJL\naWZLvEEhGGFB+/my43adlcoGWgpY3rOFc9QjH9NQQyfHjxvIYY3MxnQ6Vw==\n-----END PUBLIC KEY-----\n";
pub(super) const P384: &str = "-----BEGIN PUBLIC KEY-----\nMHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEkT3BUugUWvz2uK8i5/ljulE8A/LSQpH1\n4N+Kfl/dLPaRTuOsP7stnSUAp2GBHDMT5fkT3e9ZWbeEwGJqKP9/FlnYk0rCIS4M\nAMU6uV8J8OdyNBqApdmqZEI0EpnFITxW\n-----END PUBLIC KEY-----\n";
pub(super) const ED25519: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAjKvlrHQZ/cI+VmOxfAqJ/Y8VJJcJDCcIjsYXchIdBsA=\n-----END PUBLIC KEY-----\n";
pub(super) const P521: &str = "-----BEGIN PUBLIC KEY-----\nMIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQBRv2hn5Co+b1NYFv4hwQwiaHdhmsc\nXkKiUNDi9qvYyqEuHE2MLdvQfCvm4ATY6cMo6kfRveivTXzOo8VXRJHmXwkB/T9Y\nEHtnVMx2qV70a/KWXCo1FCc2VsdsLxYuKwu2PE2FoY/yZ2rqPcE4fCPG1VBXEcZs\n6WNF3K1ZfXq/YQiImOs=\n-----END PUBLIC KEY-----\n";
pub(super) const RSA_1024: &str = "-----BEGIN PUBLIC KEY-----\nMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC/NG1JhUu6UCm8TRQPln3SzUDi\nM0Rpb/fTebsK+QgytN6gFRHN8qxWHT9e6in3TYXcQTUhGrQJgq3R4X92/Aj5P3Nb\nPappLObsrxHfEZ4VHa9J/TrFD9HPBW9kqI23PHx62p7z5P5xL9K6J/1LdL2vZ6tg\nMlOM04yPZnp2tF6gDQIDAQAB\n-----END PUBLIC KEY-----\n";

/// Each algorithm, with the public key and the token.
pub(super) const SIGNED: [(Algorithm, &str, &str); 9] = [
    (
        Algorithm::RS256,
        RSA,
        "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6InJzYSJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6MTcwMDAwMzYwMH0.nsGoSeJA3Ja8HsPc9kdsvC0xYG9gVDtJlCKP7ykU3_VmPh6Y0LMW6psH2lW28SwQzrE8fZ7WtWkD45ZqsSORI_MFlO6MJg8UgMghxhvHsYb9aon0mCAtoDKX_XNa2ZqxYPjDR4hh7-U7Im_vg3WoBGvgOJqnjTD879Rp4JraEMaEwuDnkU2G0nds1g5mpEdIADPdsjniXsn9d-joiTgJcVt_Z4Q73GqSBNeMoarVYJRz7cygw_eqGCoFYrmk4w7caDWK-qhsH5AmTyaDuvxmypmE5NMBONJ1zWXFpgEW24IZbfvp8yRUOCufbAcvN7RI6ed8Y42GWjUpBvhw5vvXUw",
    ),
    (
        Algorithm::RS384,
        RSA,
        "eyJhbGciOiJSUzM4NCIsInR5cCI6IkpXVCIsImtpZCI6InJzYSJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6MTcwMDAwMzYwMH0.XEdYBiVrPApUuxjrlp88VyWrlZCJeUoE3cnQaYpuS-sKwW6bpdK-uJW_Z9hG1Trogj_53hotN01VY73TbC4I68KXeMZpkDxZF-_oImcaD3MPzg9dyG67yTu6cZMizV7SJ4gQ8OAHaoBmZY_aCPzdMISC3DFn0OmndWl-xRVNWKLx5j2vGvKtlIbeKEGwQk2N1AB9I6K6vA3C8lAZD515EfOlH-CtK77ozj5ntwbZ5ilLTyqcYFqEL5SHlS9PN1cBR6DmbSH30FVlC7FhuoBIbuqSmmQkx35bnYYMp4Er6bF9jT9f4898cH7-WF5xWJEqBmI7hSpdEUByLQ178UjlnA",
    ),
    (
        Algorithm::RS512,
        RSA,
        "eyJhbGciOiJSUzUxMiIsInR5cCI6IkpXVCIsImtpZCI6InJzYSJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6MTcwMDAwMzYwMH0.MMhd2ZBuIqKIGJ8t2XYfOTKyaieoNGNJjD_0b0n8X4D5BxlBucNiXMlpLH84SrUSznUBpsxqRAnRnAfxxexcMFD3pCz_BEJLjas1nl9jRMWfvBtT-lzcY-Z5SEXJxtj9Tq8EMg-EqEgGr_LNBTDhApCwnXAMLMY7ahe3Fxyt715FEKxjuxaOS8HJ5hejyqWLbHa7Sr8yanbqsruihPDQuejMZ2DMpax0lD3rEGodY9c_YaDZZ15-WrvHSCS9O938evzJLm4t0twcc8794E-y0jJipCRZSZk9E2URh-nf1idG33fmz38jPoOlOsKlkkizaZNA0YyHg2kmt9IFUtmL5w",
    ),
    (
        Algorithm::PS256,
        RSA,
        "eyJhbGciOiJQUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6InJzYSJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6MTcwMDAwMzYwMH0.O3nmPIJmuFDwbrU_d94_yhfi_LBf6xQWy6PaanBe_DzZ2qPz239RKAIAf_GfNY7DvS6pE8_e-3q-IlZomORN8b1mlhv_VYZRwp5cppIhh8j1x3Dx83-GFCiN9HZ5sj39c1wez9FVf5UUdUh7jQhIwGx-aSq3HjvAONfcjbfVkMpzsnOwCgGO440JYZnbFJX3yWNE7n6XrW2UeoQRxQ6wHD_NqPLFZXD50kviRFbjbSGICQ0-QToMIrKGuQsVvUnGYCOpnqHAyT2ICExN55nUpBfbPTwFv51MVit9EjNzVaLp8641IMm506EQQ2J2bC-YHLdY62a0DAdbVoS3BjGN6w",
    ),
    (
        Algorithm::PS384,
        RSA,
        "eyJhbGciOiJQUzM4NCIsInR5cCI6IkpXVCIsImtpZCI6InJzYSJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6MTcwMDAwMzYwMH0.UBjUB7jpfUDKXwmuwWOgegqFp1TlUHRzVt0Z2sgNPBcCDlFzeHYb28CBaGRt_9FcR4ygwnKDS5N9bb8TbCh9f9hi0mKjaLCgCN9zlagDZGPyvEue4HDeh9ggSOv6lcOh-D9CkS9UlhWtyQSiTyDaRrDYN0EPN2l68BiRzLoxx4vmN8DbXJTTQMrcw__7c91H83U0EvXD2q3MczpVcTORGr11FXtSyK7-hnRIiOXXWZ8P3URojzZbvjsFJXkwurT5Rv1slRrrEgIZkC8G7h0jhf9Ci_eMbjBJuoY-u118bDn6ChAmibLw6IfkY44-kby3MpksPP6s7Ba7Y-P-0MHDCA",
    ),
    (
        Algorithm::PS512,
        RSA,
        "eyJhbGciOiJQUzUxMiIsInR5cCI6IkpXVCIsImtpZCI6InJzYSJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6MTcwMDAwMzYwMH0.a77AAdfdg4YBz8u4GJps5u-vqsSd4gPQeJr3dlbZf2U59SU81A93_qxh_Cz6WJwImAQhNUJvmUGh11OiDwYpEwNhFYU19DFU41AJnA9pRCd41YbN9VmZHxBiMJGlrakuMwK7stpWdbN1mJbJETGtrvjicy72qm5b871kxwJZi_vzfUxBNNh-aOa6PwtdKt2C6TW5k4qOg5l_Sj_ASqO0P3xtvarLAoJ42svzV5uVsNoondgLccodzlFbnPxNCV46dWIvxqG3dKwlN1j50cJZNtHozQIbYkkYHvq3bA7Oqey_lSI_Ct6or1bwxYiWmPRO1aAZvb8sFrqcYktFbh2d_w",
    ),
    (
        Algorithm::ES256,
        P256,
        "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6InAyNTYifQ.eyJzdWIiOiJhbGljZSIsImV4cCI6MTcwMDAwMzYwMH0.JZkLgOCHBq0pDkRvvorSAHLQKN-ncyU9VbpLDDgvzYfI3ysEfpjMInVLm3nFV8rmVWqVwrIqg2ks5OrQmOayWA",
    ),
    (
        Algorithm::ES384,
        P384,
        "eyJhbGciOiJFUzM4NCIsInR5cCI6IkpXVCIsImtpZCI6InAzODQifQ.eyJzdWIiOiJhbGljZSIsImV4cCI6MTcwMDAwMzYwMH0.e0OOUe8X1zYaPxFxFV5YonSM_KcW7fRJD0Q3cI0LlAVUvhgxKKlnZjEYH5Pxo7x21rKUXxVS_ZP3FEh43UuJTE_LhKf02XlDi-z2achpwvYSWVyNzD7Q26_BE5fNXbqi",
    ),
    (
        Algorithm::EdDSA,
        ED25519,
        "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCIsImtpZCI6ImVkIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6MTcwMDAwMzYwMH0.HPcnWscGjXpwyfQqg7yVNKXnDaxj8Xt-avn3ZKRW8drHxjkYHEGOaYMEJCVS7Y_QR0ImFfuZwFFAqhvn1nYoCQ",
    ),
];

pub(super) const ES512: &str = "eyJhbGciOiJFUzUxMiIsInR5cCI6IkpXVCIsImtpZCI6InA1MjEifQ.eyJzdWIiOiJhbGljZSIsImV4cCI6MTcwMDAwMzYwMH0.AGf7zS41hJl9EUxJRX9dCWmsQ0VuyVnuQHMYJEemSeMzhmDm-8dEWYZnl-o2JXNRt14xa3XjEtXTmFKNLww5x-4JAHHkDaqx9ByicRqLL-kLSyISB6o0oHAZmwRAfbkjgjyJchfuq-9aoUi1voGdVVqlDoa2FnF5iPiglwNJv_4YVj09";

/// The public keys as an issuer publishes them, in a JWKS.
pub(super) const JWKS: &str = r#"{"keys":[{"kty":"RSA","kid":"rsa","use":"sig","n":"xMAcS8cQ_Zu4YfTZSmJH1NsmapEjGUVPB-Mx_m569WnjEiy-ByBdxMgyhSw81AYua4HjzE1LIcvBC__dJhMnuKKuJVrEzJspVzn23Tj_dCU9sObXi9tfTGx2-GQg_zNgxads_UFZek6-fgaFU1syaYfW6bwwzkY4yZZAG1-EvjAgyYsU6NlNBG76BrQkkYsOiICVQQfXJCRp8tPokLlJvEO68S4oHje3VAjVlNFPYO9NAdgvGAcfIOzfNvNAKCYy6D8nYIgAI8XFR1PYfP6_LAIFIJOuTZw-suaTq8q-qA0wEQyL32del0_fhuIbKJq2GZVSjHP5W-rNIBQR1fOzjQ","e":"AQAB"},{"kty":"EC","crv":"P-256","kid":"p256","alg":"ES256","x":"r0K7PVJ4iy2kw-3pnmb9y4PB1XJLaWZLvEEhGGFB-_k","y":"suN2nZXKBloKWN6zhXPUIx_TUEMnx48byGGNzMZ0Olc"},{"kty":"EC","crv":"P-384","kid":"p384","key_ops":["verify"],"x":"kT3BUugUWvz2uK8i5_ljulE8A_LSQpH14N-Kfl_dLPaRTuOsP7stnSUAp2GBHDMT","y":"5fkT3e9ZWbeEwGJqKP9_FlnYk0rCIS4MAMU6uV8J8OdyNBqApdmqZEI0EpnFITxW"},{"kty":"OKP","crv":"Ed25519","kid":"ed","alg":"EdDSA","x":"jKvlrHQZ_cI-VmOxfAqJ_Y8VJJcJDCcIjsYXchIdBsA"}]}"#;
